package template

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"text/template"
	"text/template/parse"
)

// builtins are the functions of text/template. and and or are not called: they evaluate no more than they need.
var builtins = map[string]any{
	"and": true, "or": true,
	"not":   func(v any) bool { return !isTrue(reflect.ValueOf(v)) },
	"len":   length,
	"index": index,
	"slice": slice,
	"print": fmt.Sprint, "printf": fmt.Sprintf, "println": fmt.Sprintln,
	"html": template.HTMLEscaper, "js": template.JSEscaper, "urlquery": template.URLQueryEscaper,
	"eq": equal,
	"ne": func(a, b any) (bool, error) { same, err := equal(a, b); return !same, err },
	"lt": func(a, b any) (bool, error) { n, err := order(a, b); return n < 0, err },
	"le": func(a, b any) (bool, error) { n, err := order(a, b); return n <= 0, err },
	"gt": func(a, b any) (bool, error) { n, err := order(a, b); return n > 0, err },
	"ge": func(a, b any) (bool, error) { n, err := order(a, b); return n >= 0, err },
}

// function calls one, or is and, or.
func (s *state) function(dot reflect.Value, name string, args []parse.Node, last []reflect.Value) (value reflect.Value, err error) {
	if name == "and" || name == "or" {
		return s.logic(dot, name == "or", args, last)
	}
	var in []reflect.Value
	for _, a := range args {
		if value, err = s.argument(dot, a); err != nil {
			return value, err
		}
		in = append(in, value)
	}
	f, ok := s.funcs[name]
	if !ok {
		f = builtins[name]
	}
	return call(name, reflect.ValueOf(f), append(in, last...))
}

func (s *state) logic(dot reflect.Value, or bool, args []parse.Node, last []reflect.Value) (value reflect.Value, err error) {
	for _, a := range args {
		if value, err = s.argument(dot, a); err != nil || isTrue(value) == or {
			return value, err
		}
	}
	if len(last) > 0 {
		return last[0], nil
	}
	if len(args) == 0 {
		return value, errors.New("it wants an argument")
	}
	return value, nil
}

// call calls a function with what fits it.
func call(name string, f reflect.Value, in []reflect.Value) (value reflect.Value, err error) {
	t := f.Type()
	fixed := t.NumIn()
	if t.IsVariadic() {
		fixed--
	}
	if len(in) < fixed || len(in) > fixed && !t.IsVariadic() {
		return value, fmt.Errorf("%s: %d arguments, want %d", name, len(in), fixed)
	}
	for i := range in {
		want := t.In(min(i, t.NumIn()-1))
		if i >= fixed {
			want = want.Elem()
		}
		if in[i], err = fit(in[i], want); err != nil {
			return value, fmt.Errorf("%s: argument %d: %w", name, i+1, err)
		}
	}
	out := f.Call(in)
	if len(out) == 2 && !out[1].IsNil() {
		return value, fmt.Errorf("%s: %w", name, out[1].Interface().(error))
	}
	value = out[0]
	if value.Kind() == reflect.Interface {
		value = value.Elem()
	}
	return value, nil
}

// fit makes a value one of a type: as it is, what it points to, or a number as another kind of number that holds it.
func fit(v reflect.Value, want reflect.Type) (reflect.Value, error) {
	if !v.IsValid() {
		if want.Kind() == reflect.Interface {
			return reflect.Zero(want), nil
		}
		return v, fmt.Errorf("nothing, want %s", want)
	}
	if v.Type().AssignableTo(want) {
		return v, nil
	}
	if b := behind(v); b.IsValid() && b.Type().AssignableTo(want) {
		return b, nil
	}
	if v.CanInt() {
		to := reflect.New(want).Elem()
		switch {
		case to.CanFloat():
			return v.Convert(want), nil
		case to.CanInt() && !to.OverflowInt(v.Int()):
			return v.Convert(want), nil
		}
	}
	return v, fmt.Errorf("%s, want %s", v.Type(), want)
}

// each gives all items of a list in order, or the numbers below one.
func each(v reflect.Value, f func(key, item reflect.Value) error) error {
	v = behind(v)
	switch {
	case !v.IsValid():
		return errors.New("nothing has no items")
	case v.Kind() == reflect.Slice || v.Kind() == reflect.Array:
		for i := range v.Len() {
			if err := f(reflect.ValueOf(i), v.Index(i)); err != nil {
				return err
			}
		}
		return nil
	case v.CanInt():
		for i := range v.Int() {
			item := reflect.ValueOf(i).Convert(v.Type())
			if err := f(item, item); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%s has no items", v.Type())
}

func length(v any) (int, error) {
	b := behind(reflect.ValueOf(v))
	switch b.Kind() {
	case reflect.String, reflect.Slice, reflect.Array:
		return b.Len(), nil
	}
	return 0, fmt.Errorf("%T has no length", v)
}

// index is an item of a list, or of one in it.
func index(v any, at ...int) (any, error) {
	b := behind(reflect.ValueOf(v))
	for _, i := range at {
		n, err := length(plain(b))
		if err != nil {
			return nil, err
		}
		if i < 0 || i >= n {
			return nil, fmt.Errorf("%d of %d", i, n)
		}
		b = behind(b.Index(i))
	}
	return plain(b), nil
}

// slice is a part of a string or list.
func slice(v any, at ...int) (any, error) {
	b := behind(reflect.ValueOf(v))
	n, err := length(v)
	if err != nil {
		return nil, err
	}
	from, to := 0, n
	if len(at) > 0 {
		from = at[0]
	}
	if len(at) > 1 {
		to = at[1]
	}
	if len(at) > 2 || b.Kind() == reflect.Array || from < 0 || from > to || to > n {
		return nil, fmt.Errorf("%v of %d", at, n)
	}
	return b.Slice(from, to).Interface(), nil
}

// equal reports whether a value is one of several.
func equal(a any, some ...any) (bool, error) {
	if len(some) == 0 {
		return false, errors.New("it wants something to compare with")
	}
	for _, b := range some {
		if n, err := order(a, b); err != nil || n == 0 {
			return n == 0, err
		}
	}
	return false, nil
}

// order compares numbers, strings, or whether something is true, with their like.
func order(a, b any) (int, error) {
	x, y := behind(reflect.ValueOf(a)), behind(reflect.ValueOf(b))
	switch {
	case !x.IsValid() || !y.IsValid():
	case x.Kind() == reflect.String && y.Kind() == reflect.String:
		return cmp.Compare(x.String(), y.String()), nil
	case x.CanInt() && y.CanInt():
		return cmp.Compare(x.Int(), y.Int()), nil
	case x.CanUint() && y.CanUint():
		return cmp.Compare(x.Uint(), y.Uint()), nil
	case x.CanInt() && y.CanUint():
		return cmp.Or(cmp.Compare(min(x.Int(), 0), 0), cmp.Compare(uint64(max(x.Int(), 0)), y.Uint())), nil
	case x.CanUint() && y.CanInt():
		n, err := order(b, a)
		return -n, err
	case x.CanFloat() && y.CanFloat():
		return cmp.Compare(x.Float(), y.Float()), nil
	case x.Kind() == reflect.Bool && y.Kind() == reflect.Bool:
		if x.Bool() == y.Bool() {
			return 0, nil
		}
		return 1, nil
	}
	return 0, fmt.Errorf("%T and %T do not compare", a, b)
}
