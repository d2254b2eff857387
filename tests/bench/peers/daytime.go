//go:build ignore

// A daytime server that writes the line and closes.
package main

import (
	"log"
	"net"
	"time"
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
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	line := time.Now().Format("Monday, January 2, 2006 15:04:05-MST\r\n")
	if _, err := conn.Write([]byte(line)); err != nil {
		log.Print(err)
	}
}
