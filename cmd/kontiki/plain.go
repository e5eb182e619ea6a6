package main

import (
	"reflect"
	"strings"
	"unicode"
)

// plain is a copy of an answer of which no string can do anything to a terminal but be read:
// what nodes say of themselves, and the names that they give themselves, come from machines
// that may be in other hands, and an escape sequence or another line among them would draw
// what it likes. An encoding has what was said.
func plain[T any](v T) T {
	out := plainly(reflect.ValueOf(&v).Elem())
	return out.Interface().(T)
}

func plainly(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	out.Set(v)
	switch v.Kind() {
	case reflect.String:
		out.SetString(plainWords(v.String()))
	case reflect.Struct:
		for i := range v.NumField() {
			if out.Field(i).CanSet() {
				out.Field(i).Set(plainly(v.Field(i)))
			}
		}
	case reflect.Slice:
		if v.IsNil() {
			break
		}
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			out.Index(i).Set(plainly(v.Index(i)))
		}
	case reflect.Map:
		if v.IsNil() {
			break
		}
		out.Set(reflect.MakeMap(v.Type()))
		for key, value := range v.Seq2() {
			out.SetMapIndex(plainly(key), plainly(value))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(plainly(v.Elem()))
		}
	}
	return out
}

// plainWords has a space for each end of a line, and a mark for what else is not to be seen.
func plainWords(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
