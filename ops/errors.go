package ops

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an Error is, for those who choose what to do next.
type Code string

const (
	Invalid     Code = "invalid"     // the request itself is wrong
	NotFound    Code = "not_found"   // what it names does not exist
	Forbidden   Code = "forbidden"   // the asker may not
	Locked      Code = "locked"      // another operation holds the lock
	OutOfDate   Code = "out_of_date" // the service changed since it was read: plan again
	Failed      Code = "failed"      // tried, and the cluster shows that it did not work
	Unavailable Code = "unavailable" // a part (Docker, Redis, a registry) does not answer
	Canceled    Code = "canceled"    // somebody, or a newer operation, called it off
	Internal    Code = "internal"    // a defect of Waggle
)

// Error is a failure a person can act on. Sentence and Next may be shown to the
// person in the channel; Err is for the log only.
type Error struct {
	Code     Code
	Sentence string // what happened, one sentence
	Next     string // what to do or type; may be empty
	Log      string // the end of the log that shows why; may be empty
	Whole    string `json:"-"` // all of that log, when Log is not; may be empty
	Err      error  `json:"-"` // the cause; may be nil
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Sentence, e.Err)
	}
	return e.Sentence
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error with a sentence. A %w operand becomes its cause and is
// part of the sentence, so use it only for errors that a person may read.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Sentence: err.Error(), Err: errors.Unwrap(err)}
}

// Then returns e with the next step set.
func (e *Error) Then(format string, args ...any) *Error {
	e.Next = fmt.Sprintf(format, args...)
	return e
}

// CodeOf returns the code of the first *Error in err's chain, Internal for any
// other error and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// redisAway is what becomes of an operation that cannot make its decision durable.
func redisAway(err error) error {
	return &Error{Code: Unavailable, Sentence: "Redis does not answer, so nothing was changed", Next: "Try again in a minute.", Err: fmt.Errorf("%w: %w", errRedis, err)}
}

// errRedis says that it is Redis that does not answer.
var errRedis = errors.New("can't reach Redis")
