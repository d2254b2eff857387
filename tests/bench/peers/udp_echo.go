//go:build ignore

// A UDP server that sends every datagram back.
package main

import (
	"log"
	"net"
)

func main() {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		log.Fatal(err)
	}
	log.Print("listening on ", conn.LocalAddr())
	buffer := make([]byte, 65536)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := conn.WriteToUDPAddrPort(buffer[:n], from); err != nil {
			log.Print(err)
		}
	}
}
