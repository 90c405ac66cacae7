// SPDX-License-Identifier: Apache-2.0

package istiostats

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Bounds on expressions: they come from whoever may write a Telemetry resource.
const (
	maxExpression = 4 << 10
	maxDepth      = 32
)

// parser reads an expression from its beginning.
type parser struct {
	rest     string
	token    string // the current one; empty at the end
	quoted   bool   // it was a string, and token is its content
	varies   bool   // an attribute of the exchange was named
	depth    int
	node     *Node
	failed   error
	position int // of the current token
	whole    string
}

// parseExpression compiles an expression.
func parseExpression(text string, n *Node) (*expression, error) {
	if len(text) > maxExpression {
		return nil, fmt.Errorf("is longer than %d octets", maxExpression)
	}
	p := &parser{rest: text, whole: text, node: n}
	p.next()
	root := p.choice()
	if p.failed == nil && (p.token != "" || p.quoted) {
		p.fail("%q is not expected", p.token)
	}
	if p.failed != nil {
		return nil, p.failed
	}
	return &expression{root: root, constant: !p.varies}, nil
}

// fail keeps the first error.
func (p *parser) fail(format string, args ...any) node {
	if p.failed == nil {
		p.failed = fmt.Errorf("at %d: %s", p.position, fmt.Sprintf(format, args...))
	}
	p.rest, p.token, p.quoted = "", "", false
	return unknownExpression.root
}

// operators are those of more than one octet before those that begin them.
var operators = []string{"==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "?", ":", "+", "(", ")", "[", "]", ".", ",", "-"}

// next reads a token.
func (p *parser) next() {
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	p.position, p.quoted, p.token = len(p.whole)-len(p.rest), false, ""
	if p.rest == "" {
		return
	}
	c := p.rest[0]
	if c == '"' || c == '\'' {
		p.text(c)
		return
	}
	n := 0
	for n < len(p.rest) && isWord(p.rest[n]) {
		n++
	}
	for _, op := range operators {
		if n == 0 && strings.HasPrefix(p.rest, op) {
			n = len(op)
		}
	}
	if n == 0 {
		p.fail("%q is not understood", c)
		return
	}
	p.token, p.rest = p.rest[:n], p.rest[n:]
}

func isWord(c byte) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// text reads a string literal.
func (p *parser) text(quote byte) {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		c := p.rest[i]
		if c == quote {
			p.token, p.quoted, p.rest = b.String(), true, p.rest[i+1:]
			return
		}
		if c == '\\' && i+1 < len(p.rest) {
			i++
			switch c = p.rest[i]; c {
			case 'n':
				c = '\n'
			case 't':
				c = '\t'
			case '\\', '\'', '"', '`', '?':
			default:
				p.fail("the escape \\%c is not supported", c)
				return
			}
		}
		b.WriteByte(c)
	}
	p.fail("the string does not end")
}

// is reports whether the current token is that operator or word.
func (p *parser) is(token string) bool { return !p.quoted && p.token == token }

// take passes over the token if it is that one.
func (p *parser) take(token string) bool {
	if !p.is(token) {
		return false
	}
	p.next()
	return true
}

func (p *parser) want(token string) {
	if p.failed == nil && !p.take(token) {
		p.fail("%q is expected before %q", token, p.token)
	}
}

// choice is the whole of an expression.
func (p *parser) choice() node {
	if p.depth++; p.depth > maxDepth {
		return p.fail("is nested too deeply")
	}
	defer func() { p.depth-- }()
	when := p.disjunction()
	if !p.take("?") {
		return when
	}
	yes := p.choice()
	p.want(":")
	return choice{when, yes, p.choice()}
}

func (p *parser) disjunction() node {
	a := p.conjunction()
	for p.take("||") {
		a = logic{true, a, p.conjunction()}
	}
	return a
}

func (p *parser) conjunction() node {
	a := p.comparison()
	for p.take("&&") {
		a = logic{false, a, p.comparison()}
	}
	return a
}

func (p *parser) comparison() node {
	a := p.sum()
	for _, op := range operators[:8] {
		if op != "&&" && op != "||" && p.take(op) {
			return comparison{op, a, p.sum()}
		}
	}
	return a
}

func (p *parser) sum() node {
	a := p.unary()
	for p.take("+") {
		a = sum{a, p.unary()}
	}
	return a
}

func (p *parser) unary() node {
	if p.take("!") {
		if p.depth++; p.depth > maxDepth {
			return p.fail("is nested too deeply")
		}
		defer func() { p.depth-- }()
		return not{p.unary()}
	}
	return p.methods(p.primary())
}

// methods reads what is called on a value.
func (p *parser) methods(a node) node {
	for p.take(".") {
		name := p.token
		p.next()
		p.want("(")
		arg, pattern := p.choice(), ""
		if l, ok := arg.(literal); ok {
			pattern = l.v.s
		}
		p.want(")")
		switch name {
		case "startsWith":
			a = call{bytes.HasPrefix, a, arg}
		case "endsWith":
			a = call{bytes.HasSuffix, a, arg}
		case "contains":
			a = call{bytes.Contains, a, arg}
		case "matches":
			re, err := regexp.Compile(pattern)
			if err != nil || pattern == "" {
				return p.fail("matches needs a literal regular expression")
			}
			a = matches{a, re}
		default:
			return p.fail("the function %q is not supported", name)
		}
	}
	return a
}

func (p *parser) primary() node {
	switch {
	case p.quoted:
		v := value{kind: kindText, s: p.token, b: []byte(p.token)}
		p.next()
		return literal{v}
	case p.take("("):
		a := p.choice()
		p.want(")")
		return a
	case p.take("true"):
		return literal{truth(true)}
	case p.take("false"):
		return literal{truth(false)}
	case p.token != "" && (p.token[0] >= '0' && p.token[0] <= '9' || p.token == "-"):
		return p.number()
	case p.token != "" && isWord(p.token[0]):
		return p.word()
	}
	return p.fail("a value is expected before %q", p.token)
}

func (p *parser) number() node {
	text := ""
	if p.take("-") {
		text = "-"
	}
	n, err := strconv.ParseInt(text+p.token, 10, 64)
	if err != nil {
		return p.fail("%q is no number", text+p.token)
	}
	p.next()
	return literal{numberOf(n)}
}

// word reads a function or an attribute.
func (p *parser) word() node {
	name := p.token
	p.next()
	if p.is("(") {
		p.next()
		a := p.choice()
		p.want(")")
		switch name {
		case "has":
			return has{a}
		case "string":
			return asText{a}
		}
		return p.fail("the function %q is not supported", name)
	}
	path := []string{name}
	for {
		switch {
		case p.is(".") && !p.calls():
			p.next()
			if p.quoted || p.token == "" || !isWord(p.token[0]) {
				return p.fail("a name is expected before %q", p.token)
			}
			path = append(path, p.token)
			p.next()
		case p.take("["):
			if !p.quoted {
				return p.fail("only a literal string is supported in []")
			}
			path = append(path, p.token)
			p.next()
			p.want("]")
		default:
			if p.failed != nil {
				return unknownExpression.root
			}
			return p.attribute(path)
		}
	}
}

// calls reports whether the name behind the current dot is that of a function.
func (p *parser) calls() bool {
	rest := strings.TrimLeft(p.rest, " \t\r\n")
	n := 0
	for n < len(rest) && isWord(rest[n]) {
		n++
	}
	return strings.HasPrefix(strings.TrimLeft(rest[n:], " \t\r\n"), "(")
}

// attribute finds what a path names.
func (p *parser) attribute(path []string) node {
	if v, ok := p.node.attribute(path); ok {
		return literal{v}
	}
	if a := attributeOf(path); a != nil {
		p.varies = true
		return a
	}
	return p.fail("the attribute %s is not supported", strings.Join(path, "."))
}
