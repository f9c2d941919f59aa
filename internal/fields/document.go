package fields

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ReadFile takes a configuration file of at most max octets, without the byte order mark that some editors put before UTF-8.
func ReadFile(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = Errors{fmt.Sprintf("%s:1:1: longer than %d bytes", path, max)}
	}
	return bytes.TrimPrefix(data, []byte("\uFEFF")), err
}

// Document is the root of the one document in data. The error is of type Errors.
func (r *Reader) Document(data []byte) (*yaml.Node, error) {
	root, err := document(data)
	if err != nil {
		return nil, Errors{r.File + ":" + err.Error()}
	}
	r.plain(root)
	return root, r.Err()
}

// document is the one document in data; its error begins with line:column.
func document(data []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("1:1: the file is empty")
	} else if err != nil {
		return nil, positioned(err)
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, positioned(err)
		}
		return nil, fmt.Errorf("%d:%d: a second document: one file is one configuration", more.Line, more.Column)
	}
	return doc.Content[0], nil
}

var (
	yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)
	// byParser are errors whose lines the library counts from 0.
	byParser = regexp.MustCompile(`did not find expected (node content|'-' indicator|key|',' or '[\]}]'|<document start>)$`)
)

// positioned puts a syntax error of the YAML library, which knows no columns, into our form.
func positioned(err error) error {
	line, rule := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
		rule = strings.TrimPrefix(err.Error(), m[0])
		if byParser.MatchString(rule) {
			line++
		}
	}
	return fmt.Errorf("%d:1: %s", line, rule)
}

// plain refuses what makes YAML mean more than it shows: anchors, aliases, tags of one's own.
func (r *Reader) plain(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		r.Fail(n, "an alias: write the value itself")
		return
	case n.Anchor != "":
		r.Fail(n, "an anchor: write the value where it is used")
	case n.Style&yaml.TaggedStyle != 0:
		r.Fail(n, "a tag: values need none here")
	}
	for _, child := range n.Content {
		r.plain(child)
	}
}
