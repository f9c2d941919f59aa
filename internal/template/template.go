// Package template fills in templates in the syntax of text/template, which parses them. It has no methods: text/template looks them
// up by name, so the linker keeps every exported method of a program that can execute one, 4 MB of meshctl.
//
// Values are structs, lists, strings, numbers and booleans, and pointers to them; else it knows all of that syntax. It imports the standard library
// only; cmd/meshctl's packages enrol and page call it, of which the first fills in what operators write.
package template

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"text/template"
	"text/template/parse"
)

const (
	maxDepth = 100       // templates that are in each other
	maxBytes = 256 << 20 // of a result
)

// A Template is a text with actions, or several by name.
type Template struct {
	trees  map[string]*parse.Tree
	funcs  map[string]any
	escape func(string) string
}

// Parse parses the text of a template and of those that it defines. Functions are beside those of text/template; all they return is one
// value, or a value and an error. escape is applied to each value that is printed, and to nothing else; nil: values stay as they are.
func Parse(name, text string, funcs map[string]any, escape func(string) string) (*Template, error) {
	t := &Template{funcs: funcs, escape: escape}
	var err error
	t.trees, err = parse.Parse(name, text, "", "", builtins, funcs)
	return t, err
}

// Execute returns the template of that name filled in. An error names line and column.
func (t *Template) Execute(name string, data any) (string, error) {
	var b strings.Builder
	s := &state{Template: t, out: &b}
	err := s.template(name, reflect.ValueOf(data))
	return b.String(), err
}

// state is where an execution is.
type state struct {
	*Template
	out   *strings.Builder
	tree  *parse.Tree
	depth int
	vars  []variable
}

type variable struct {
	name  string
	value reflect.Value
}

// What ends a round of a range.
var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

// fault is an error with its place.
func (s *state) fault(at parse.Node, err error) error {
	if err == nil || errors.As(err, new(*placed)) || err == errBreak || err == errContinue {
		return err
	}
	place, context := s.tree.ErrorContext(at)
	return &placed{fmt.Errorf("%s: %s: %w", place, context, err)}
}

type placed struct{ error }

func (p *placed) Unwrap() error { return p.error }

func (s *state) template(name string, dot reflect.Value) error {
	tree := s.trees[name]
	if tree == nil || tree.Root == nil {
		return fmt.Errorf("there is no template %q", name)
	}
	if s.depth >= maxDepth {
		return fmt.Errorf("template %q: more than %d templates in each other", name, maxDepth)
	}
	inner := &state{Template: s.Template, out: s.out, tree: tree, depth: s.depth + 1, vars: []variable{{"$", dot}}}
	return inner.walk(dot, tree.Root)
}

func (s *state) walk(dot reflect.Value, node parse.Node) error {
	switch n := node.(type) {
	case *parse.ListNode:
		for _, one := range n.Nodes {
			if err := s.walk(dot, one); err != nil {
				return err
			}
		}
	case *parse.TextNode:
		return s.print(n, string(n.Text))
	case *parse.ActionNode:
		return s.action(dot, n)
	case *parse.IfNode:
		return s.branch(dot, &n.BranchNode, false)
	case *parse.WithNode:
		return s.branch(dot, &n.BranchNode, true)
	case *parse.RangeNode:
		defer s.forget(len(s.vars))
		return s.loop(dot, n)
	case *parse.TemplateNode:
		value, err := s.pipe(dot, n.Pipe)
		if err != nil {
			return err
		}
		return s.fault(n, s.template(n.Name, value))
	case *parse.BreakNode:
		return errBreak
	case *parse.ContinueNode:
		return errContinue
	}
	return nil // a comment
}

func (s *state) action(dot reflect.Value, n *parse.ActionNode) error {
	value, err := s.pipe(dot, n.Pipe)
	if err != nil || len(n.Pipe.Decl) > 0 {
		return err
	}
	text := "<no value>"
	if value.IsValid() {
		text = fmt.Sprint(plain(value))
	}
	if s.escape != nil {
		text = s.escape(text)
	}
	return s.print(n, text)
}

func (s *state) print(at parse.Node, text string) error {
	if s.out.Len()+len(text) > maxBytes {
		return s.fault(at, fmt.Errorf("more than %d octets", maxBytes))
	}
	s.out.WriteString(text)
	return nil
}

// forget ends the variables that were made in a block.
func (s *state) forget(n int) { s.vars = s.vars[:n] }

func (s *state) branch(dot reflect.Value, n *parse.BranchNode, with bool) error {
	defer s.forget(len(s.vars))
	value, err := s.pipe(dot, n.Pipe)
	if err != nil {
		return err
	}
	switch {
	case isTrue(value) && with:
		return s.walk(value, n.List)
	case isTrue(value):
		return s.walk(dot, n.List)
	case n.ElseList != nil:
		return s.walk(dot, n.ElseList)
	}
	return nil
}

// isTrue is false for the zero value of a type and for what is empty.
func isTrue(v reflect.Value) bool {
	truth, _ := template.IsTrue(plain(v))
	return truth
}

// loop walks a list for each item of a value. Its variables are set anew for each.
func (s *state) loop(dot reflect.Value, n *parse.RangeNode) error {
	value, err := s.evaluate(dot, n.Pipe)
	if err != nil {
		return err
	}
	names, assign := n.Pipe.Decl, n.Pipe.IsAssign
	if len(names) > 1 && behind(value).CanInt() {
		return s.fault(n.Pipe, errors.New("a range over a number has one variable"))
	}
	outer := len(s.vars)
	once := func(key, item reflect.Value) error {
		defer s.forget(outer)
		for i, v := range names {
			one := item
			if i == 0 && len(names) > 1 {
				one = key
			}
			if err := s.set(v.Ident[0], one, assign); err != nil {
				return s.fault(n, err)
			}
		}
		return s.walk(item, n.List)
	}
	some := false
	err = each(value, func(key, item reflect.Value) error {
		some = true
		if err := once(key, item); err != errContinue {
			return err
		}
		return nil
	})
	switch {
	case err == errBreak:
		return nil
	case err != nil:
		return s.fault(n.Pipe, err)
	case !some && n.ElseList != nil:
		return s.walk(dot, n.ElseList)
	}
	return nil
}

func (s *state) set(name string, value reflect.Value, assign bool) error {
	if !assign {
		s.vars = append(s.vars, variable{name, value})
		return nil
	}
	for i := len(s.vars) - 1; i >= 0; i-- {
		if s.vars[i].name == name {
			s.vars[i].value = value
			return nil
		}
	}
	return fmt.Errorf("there is no variable %s", name)
}

// pipe is the value of a pipeline, which may name it; the zero Value for none.
func (s *state) pipe(dot reflect.Value, n *parse.PipeNode) (reflect.Value, error) {
	value, err := s.evaluate(dot, n)
	if err != nil || n == nil {
		return value, err
	}
	for _, v := range n.Decl {
		if err := s.set(v.Ident[0], value, n.IsAssign); err != nil {
			return value, s.fault(n, err)
		}
	}
	return value, nil
}

// evaluate is the value of a pipeline: each command has that of the one before as its last argument.
func (s *state) evaluate(dot reflect.Value, n *parse.PipeNode) (value reflect.Value, err error) {
	if n == nil {
		return value, nil
	}
	for i, c := range n.Cmds {
		var last []reflect.Value
		if i > 0 {
			last = []reflect.Value{value}
		}
		if value, err = s.command(dot, c, last); err != nil {
			return value, s.fault(c, err)
		}
	}
	return value, nil
}

func (s *state) command(dot reflect.Value, n *parse.CommandNode, last []reflect.Value) (reflect.Value, error) {
	if f, ok := n.Args[0].(*parse.IdentifierNode); ok {
		return s.function(dot, f.Ident, n.Args[1:], last)
	}
	if len(n.Args) > 1 || len(last) > 0 {
		return reflect.Value{}, errors.New("it is no function, and takes no arguments")
	}
	return s.argument(dot, n.Args[0])
}

func (s *state) argument(dot reflect.Value, node parse.Node) (reflect.Value, error) {
	switch n := node.(type) {
	case *parse.DotNode:
		return dot, nil
	case *parse.FieldNode:
		return fields(dot, n.Ident)
	case *parse.VariableNode:
		for i := len(s.vars) - 1; i >= 0; i-- {
			if s.vars[i].name == n.Ident[0] {
				return fields(s.vars[i].value, n.Ident[1:])
			}
		}
		return reflect.Value{}, fmt.Errorf("there is no variable %s", n.Ident[0])
	case *parse.ChainNode:
		value, err := s.argument(dot, n.Node)
		if err != nil {
			return value, err
		}
		return fields(value, n.Field)
	case *parse.PipeNode:
		return s.pipe(dot, n)
	case *parse.IdentifierNode:
		return s.function(dot, n.Ident, nil, nil)
	case *parse.BoolNode:
		return reflect.ValueOf(n.True), nil
	case *parse.StringNode:
		return reflect.ValueOf(n.Text), nil
	case *parse.NumberNode:
		return number(n)
	case *parse.NilNode:
		return reflect.Value{}, errors.New("nil is no value")
	}
	return reflect.Value{}, fmt.Errorf("%s is not known here", node)
}

// number is a constant: an int unless it is written as what is none.
func number(n *parse.NumberNode) (reflect.Value, error) {
	switch {
	case n.IsInt && (n.Text[0] == '\'' || !strings.ContainsAny(n.Text, ".eEpP") || strings.HasPrefix(strings.TrimLeft(n.Text, "+-"), "0x")):
		return reflect.ValueOf(int(n.Int64)), nil
	case n.IsFloat && !n.IsInt && !n.IsUint || n.IsFloat && n.IsInt:
		return reflect.ValueOf(n.Float64), nil
	}
	return reflect.Value{}, fmt.Errorf("%s is no int and no float64", n.Text)
}

// fields follows names from a value through structs.
func fields(v reflect.Value, names []string) (reflect.Value, error) {
	for _, name := range names {
		v = behind(v)
		switch {
		case !v.IsValid():
			return v, fmt.Errorf("nothing has a field %s", name)
		case v.Kind() == reflect.Struct:
			f, ok := v.Type().FieldByName(name)
			if !ok || !f.IsExported() {
				return v, fmt.Errorf("there is no %s in %s", name, v.Type())
			}
			var err error
			if v, err = v.FieldByIndexErr(f.Index); err != nil {
				return v, err
			}
		default:
			return v, fmt.Errorf("%s has no field %s", v.Type(), name)
		}
	}
	return v, nil
}

// behind is what pointers and interfaces are of; invalid for nil.
func behind(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	return v
}

// plain is a value as functions and fmt take it.
func plain(v reflect.Value) any {
	if !v.IsValid() {
		return nil
	}
	return v.Interface()
}
