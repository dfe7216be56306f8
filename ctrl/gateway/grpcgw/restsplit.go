package grpcgw

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// splitter finds the JSON values of a stream whose bytes are pushed: the elements of one
// array, values one after the other, or the data of server-sent events. It holds one at a
// time.
type splitter struct {
	max    int
	events bool
	value  func(value []byte, event string) error

	// JSON
	begun, array, over bool
	state              int
	depth              int
	quoted, escaped    bool
	buf                []byte // the value at hand

	// Events
	line  []byte
	cr    bool // the last byte was CR: an LF after it is of the same end of line
	data  bool // there was a line of data
	event string
}

// States between and in the values of JSON.
const (
	splitValue  = iota // a value may begin; in an array after [ or a comma
	splitFirst         // as splitValue, or the array ends
	splitIn            // in an object or an array
	splitString        // in a string that is the value
	splitWord          // in a number, true, false or null
	splitNext          // in an array: a comma, or its end
)

func (s *splitter) wrong(what string) error {
	return fmt.Errorf("%w: the stream is not JSON: %s", errFrame, what)
}

// feed takes the next bytes. After an error it is not to be called again.
func (s *splitter) feed(p []byte) error {
	for _, c := range p {
		var err error
		if s.events {
			err = s.eventByte(c)
		} else {
			err = s.byte(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// byte takes one byte of JSON.
func (s *splitter) byte(c byte) error {
	switch s.state {
	case splitIn, splitString:
		return s.inside(c)
	case splitWord:
		if isSpace(c) || c == ',' || c == ']' {
			if err := s.emit(); err != nil {
				return err
			}
			return s.byte(c) // between values now
		}
		return s.add(c)
	}
	if isSpace(c) {
		return nil
	}
	if s.over {
		return s.wrong("something follows the array")
	}
	switch {
	case s.state == splitNext && c == ',':
		s.state = splitValue
		return nil
	case (s.state == splitNext || s.state == splitFirst) && c == ']' && s.array:
		s.over = true
		return nil
	case s.state == splitNext:
		return s.wrong("no comma between elements")
	case !s.begun && c == '[':
		s.begun, s.array, s.state = true, true, splitFirst
		return nil
	}
	s.begun = true
	return s.start(c)
}

// start begins a value.
func (s *splitter) start(c byte) error {
	switch {
	case c == '{' || c == '[':
		s.state, s.depth = splitIn, 1
	case c == '"':
		s.state = splitString
	case c == '-' || isAlnum(c):
		s.state = splitWord
	default:
		return s.wrong("a value begins with " + fmt.Sprintf("%q", c))
	}
	return s.add(c)
}

// inside takes a byte of an object, an array or a string.
func (s *splitter) inside(c byte) error {
	if err := s.add(c); err != nil {
		return err
	}
	quoted := s.quoted || s.state == splitString
	switch {
	case s.escaped:
		s.escaped = false
	case quoted && c == '\\':
		s.escaped = true
	case c == '"' && s.state == splitString:
		return s.emit()
	case c == '"':
		s.quoted = !s.quoted
	case quoted:
	case c == '{' || c == '[':
		s.depth++ // a depth over maxJSONDepth is refused when the value is read
	case c == '}' || c == ']':
		if s.depth--; s.depth == 0 {
			return s.emit()
		}
	}
	return nil
}

func (s *splitter) add(c byte) error {
	if len(s.buf) >= s.max {
		return fmt.Errorf("%w: at most %d bytes", errTooLarge, s.max)
	}
	s.buf = append(s.buf, c)
	return nil
}

// keepBuffer bounds the memory that a stream keeps between messages.
const keepBuffer = 64 << 10

func (s *splitter) emit() error {
	s.state = splitValue
	if s.array {
		s.state = splitNext
	}
	s.quoted, s.escaped = false, false
	if !json.Valid(s.buf) {
		return s.wrong("a value that is none")
	}
	err := s.value(s.buf, "")
	if s.buf = s.buf[:0]; cap(s.buf) > keepBuffer {
		s.buf = nil
	}
	return err
}

// eventByte takes one byte of server-sent events.
func (s *splitter) eventByte(c byte) error {
	after := s.cr
	s.cr = c == '\r'
	switch {
	case c == '\n' && after:
		return nil
	case c == '\n' || c == '\r':
		line := s.line
		s.line = s.line[:0]
		return s.eventLine(line)
	case len(s.line)+len(s.buf) >= s.max+maxEventName:
		return fmt.Errorf("%w: at most %d bytes", errTooLarge, s.max)
	}
	s.line = append(s.line, c)
	return nil
}

// maxEventName is room for the name of a line's field and an event's name.
const maxEventName = 128

// eventLine takes a line: a field, a comment, or the end of an event.
func (s *splitter) eventLine(line []byte) error {
	if !s.begun {
		s.begun = true
		line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
	}
	if len(line) == 0 {
		return s.dispatch()
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "data":
		if s.data {
			s.buf = append(s.buf, '\n')
		}
		s.data = true
		if len(s.buf)+len(value) > s.max {
			return fmt.Errorf("%w: at most %d bytes", errTooLarge, s.max)
		}
		s.buf = append(s.buf, value...)
	case "event":
		s.event = string(value)
	}
	return nil // id, retry, comments and what is not known
}

func (s *splitter) dispatch() error {
	event, data := s.event, s.data
	s.event, s.data = "", false
	if !data {
		return nil
	}
	if !json.Valid(s.buf) {
		return s.wrong("an event's data that is none")
	}
	err := s.value(s.buf, event)
	s.buf = s.buf[:0]
	if cap(s.buf) > keepBuffer {
		s.buf = nil
	}
	if cap(s.line) > keepBuffer {
		s.line = nil
	}
	return err
}

// end says whether the stream may end here.
func (s *splitter) end() error {
	switch {
	case s.events: // an event that no empty line ended is none
		return nil
	case s.state == splitWord && !s.array:
		return s.emit()
	case s.state == splitIn, s.state == splitString, s.state == splitWord, s.array && !s.over:
		return s.wrong("it ends early")
	}
	return nil
}
