// Package house holds the rules of this house as tests: which room may import
// which, that every package says what it is for, and what code may not do. It
// has no code that runs; nothing imports it.
package house
