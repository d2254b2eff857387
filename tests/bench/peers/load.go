//go:build ignore

// The load on a server: what a client does, over and over for some seconds. Prints how much was
// done (conversations, bytes of a file, answers, or datagrams that came back) and in how many
// seconds.
//
//	load cache|daytime|dns|file|http-big|http-small|socketserver|udp_echo|zen ADDRESS SECONDS
//
// To ask more than a server on another core can give, it makes bare system calls from one thread:
// it opens many conversations and only then ends the oldest, which seldom has to be waited for.
package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	most   = 20000 // conversations, as each leaves a port in TIME_WAIT
	window = 64    // datagrams under way
	size   = 64    // octets of an echo's
	kept   = 32    // connections kept for small files
	asking = 64    // connections on which questions are asked
)

var buffer = make([]byte, 1<<20)

// Which IPv4 addresses has example.test?
var question = []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" +
	"\x07example\x04test\x00\x00\x01\x00\x01")

func main() {
	log.SetFlags(0)
	address, err := netip.ParseAddrPort(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	seconds, err := strconv.ParseFloat(os.Args[3], 64)
	if err != nil {
		log.Fatal(err)
	}
	server := &syscall.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}
	start := time.Now()
	end := start.Add(time.Duration(seconds * float64(time.Second)))
	var done int
	switch what := os.Args[1]; what {
	case "daytime":
		done, _, err = converse(server, "", 64, end)
	case "socketserver":
		done, _, err = converse(server, "hello world\n", 4, end) // Python keeps 5 waiting
	case "file":
		_, done, err = converse(server, "Hello server!\n", 1, end)
	case "http-small":
		done, _, err = get(server, "/small.txt", kept, end)
	case "http-big":
		_, done, err = get(server, "/big.bin", 1, end)
	case "zen": // an echo is an answer, too
		question := []byte("Beautiful is better than?")
		done, err = roundTrips(server, asking, [][]byte{question}, ".?", end)
	case "cache":
		done, err = cache(server, end)
	case "dns":
		done, err = ask(server, question, end)
	case "udp_echo":
		done, err = ask(server, make([]byte, size), end)
	default:
		err = fmt.Errorf("%s: no such load", what)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(done, time.Since(start).Seconds())
}

// converse connects, greets and reads to the end until the time is up, with up to `open`
// conversations under way. It returns how many have ended and how many bytes were read.
func converse(server syscall.Sockaddr, greeting string, open int, end time.Time) (count, bytes int, err error) {
	var sockets []int
	for begun := 0; ; {
		for more := begun < most && time.Now().Before(end); more && len(sockets) < open; begun++ {
			fd, err := connect(server, syscall.SOCK_STREAM)
			if err != nil {
				return count, bytes, err
			}
			if _, err := syscall.Write(fd, []byte(greeting)); err != nil {
				return count, bytes, err
			}
			sockets = append(sockets, fd)
		}
		if len(sockets) == 0 {
			return count, bytes, nil
		}
		fd := sockets[0]
		sockets = sockets[1:]
		for n := 1; n > 0; bytes += n {
			if n, err = syscall.Read(fd, buffer); err != nil {
				return count, bytes, err
			}
		}
		if err := syscall.Close(fd); err != nil {
			return count, bytes, err
		}
		count++
	}
}

// get asks for a file, over and over until the time is up, on each of `open` connections that are
// kept. It returns how many answers came whole and how many bytes of files.
func get(server syscall.Sockaddr, path string, open int, end time.Time) (count, size int, err error) {
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	sockets := make([]int, open)
	for i := range sockets {
		if sockets[i], err = connect(server, syscall.SOCK_STREAM); err != nil {
			return 0, 0, err
		}
		defer syscall.Close(sockets[i])
		if _, err := syscall.Write(sockets[i], request); err != nil {
			return 0, 0, err
		}
	}
	for i := 0; ; i = (i + 1) % open {
		n, left, err := head(sockets[i])
		for size += n; err == nil && left > 0 && time.Now().Before(end); size += n {
			if n, err = syscall.Read(sockets[i], buffer); n == 0 && err == nil {
				err = io.ErrUnexpectedEOF
			}
			left -= n
		}
		if err != nil || time.Now().After(end) {
			return count, size, err
		}
		count++
		if _, err := syscall.Write(sockets[i], request); err != nil {
			return count, size, err
		}
	}
}

// cache stores a thousand values of 100 bytes, and then asks for nine while it stores one.
func cache(server syscall.Sockaddr, end time.Time) (count int, err error) {
	var requests [][]byte
	for i := 0; i < 1000; i++ {
		set := fmt.Sprintf("set key-%d 0 0 100\r\n%0100d\r\n", i, i)
		requests = append(requests, []byte(set))
		for j := 1; j < 10; j++ {
			requests = append(requests, []byte(fmt.Sprintf("get key-%d\r\n", (i+j*97)%1000)))
		}
	}
	return roundTrips(server, kept, requests, "\n", end)
}

// roundTrips asks one question after the other on each of `open` connections, none of which waits
// for another. An answer has ended when one of `ends` is the last byte that came; that of a cached
// value comes in one piece. It returns how many answers came.
func roundTrips(server syscall.Sockaddr, open int, questions [][]byte, ends string, stop time.Time) (count int, err error) {
	poll, err := syscall.EpollCreate1(0)
	if err != nil {
		return 0, err
	}
	asked := 0
	ask := func(fd int) error {
		_, err := syscall.Write(fd, questions[asked%len(questions)])
		asked++
		return err
	}
	for i := 0; i < open; i++ {
		fd, err := connect(server, syscall.SOCK_STREAM)
		if err != nil {
			return 0, err
		}
		defer syscall.Close(fd)
		if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
			return 0, err
		}
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
		if err := syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
			return 0, err
		}
		if err := ask(fd); err != nil {
			return 0, err
		}
	}
	events := make([]syscall.EpollEvent, open)
	for time.Now().Before(stop) {
		ready, err := syscall.EpollWait(poll, events, 1000)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return count, err
		}
		for _, event := range events[:ready] {
			fd := int(event.Fd)
			n, err := syscall.Read(fd, buffer)
			if err != nil {
				return count, err
			}
			if n == 0 {
				return count, io.ErrUnexpectedEOF
			}
			if strings.IndexByte(ends, buffer[n-1]) < 0 {
				continue
			}
			count++
			if err := ask(fd); err != nil {
				return count, err
			}
		}
	}
	return count, syscall.Close(poll)
}

// head reads the head of an answer with a file. It returns how many bytes of the file came with
// it, and how many are still to come.
func head(fd int) (came, left int, err error) {
	for filled := 0; ; {
		n, err := syscall.Read(fd, buffer[filled:])
		if err != nil {
			return 0, 0, err
		}
		if n == 0 {
			return 0, 0, io.ErrUnexpectedEOF
		}
		filled += n
		length := bytes.Index(buffer[:filled], []byte("\r\n\r\n")) + 4
		if length < 4 {
			continue
		}
		lines := strings.ToLower(string(buffer[:length]))
		_, value, _ := strings.Cut(lines, "\r\ncontent-length:")
		value, _, _ = strings.Cut(value, "\r\n")
		total, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil || !strings.HasPrefix(lines, "http/1.1 200 ") {
			return 0, 0, fmt.Errorf("not the file: %q", lines)
		}
		return filled - length, total - filled + length, nil
	}
}

// ask sends datagrams and, for each that comes back, the next. It returns how many came back.
func ask(server syscall.Sockaddr, datagram []byte, end time.Time) (count int, err error) {
	fd, err := connect(server, syscall.SOCK_DGRAM)
	if err != nil {
		return 0, err
	}
	wait := syscall.NsecToTimeval(int64(200 * time.Millisecond))
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &wait); err != nil {
		return 0, err
	}
	for i := 0; i < window; i++ {
		if _, err := syscall.Write(fd, datagram); err != nil {
			return 0, err
		}
	}
	for count%100 > 0 || time.Now().Before(end) {
		switch _, err := syscall.Read(fd, buffer); err {
		case nil:
			count++
		case syscall.EAGAIN: // some were lost, this replaces one
		default:
			return count, err
		}
		if _, err := syscall.Write(fd, datagram); err != nil {
			return count, err
		}
	}
	return count, syscall.Close(fd)
}

func connect(server syscall.Sockaddr, kind int) (fd int, err error) {
	fd, err = syscall.Socket(syscall.AF_INET, kind, 0)
	if err != nil {
		return -1, err
	}
	return fd, syscall.Connect(fd, server)
}
