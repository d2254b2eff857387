//go:build ignore

// A server that waits for a greeting, sends the file it is told, and closes.
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	log.Print("listening on ", listener.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			if err := send(conn, os.Args[1]); err != nil {
				log.Print(err)
			}
		}()
	}
}

func send(conn net.Conn, path string) error {
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1024)); err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(conn, file) // sendfile
	return err
}
