// SPDX-License-Identifier: Apache-2.0

package router

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"pillion/proxy/filter"
	"pillion/proxy/http"
	"pillion/proxy/match"
)

// Format is the value of a header operation: text with Envoy's %OPERATOR%
// substitutions. What an operator finds missing is empty text. Immutable.
type Format struct {
	// parts are the pieces in order; a single one without an operator is a
	// literal.
	parts []formatPart
}

// formatPart is literal text followed by what an operator yields.
type formatPart struct {
	text     []byte
	op       operator
	ref, alt *filter.HeaderRef  // for opRequest and opResponse; alt may be nil
	arg      string             // for opQuery
	most     int                // bound on the length; 0 is none
	fact     http.TLSFact       // of opTLS
	data     *http.MetadataPath // of opMetadata
}

// operator numbers what can be substituted.
type operator uint8

const (
	opNone operator = iota
	opRequest
	opResponse
	opQuery
	opPathQuery
	opPathOnly
	opProtocol
	opRemote
	opRemoteIP
	opRemotePort
	opLocal
	opLocalIP
	opLocalPort
	opUpstream
	opUpstreamIP
	opUpstreamPort
	opUpstreamLocal
	opUpstreamCluster
	opUpstreamClusterRaw
	opUpstreamProtocol
	opRouteName
	opServerName
	opTLS
	opMetadata
	opResponseCode
	opResponseFlags
	opResponseDetails
	opStartTime
	opStartSeconds
	opHostname // replaced by text when parsed
)

// plainOperator returns the operator of a name that takes no argument, or
// opNone.
//
// The remote address is that of the connection: Envoy's x-forwarded-for
// reckoning, which DOWNSTREAM_REMOTE_ADDRESS follows and
// DOWNSTREAM_DIRECT_REMOTE_ADDRESS does not, is the connection manager's.
func plainOperator(name string) operator {
	switch name {
	case "PROTOCOL":
		return opProtocol
	case "DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS":
		return opRemote
	case "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT":
		return opRemoteIP
	case "DOWNSTREAM_REMOTE_PORT", "DOWNSTREAM_DIRECT_REMOTE_PORT":
		return opRemotePort
	case "DOWNSTREAM_LOCAL_ADDRESS":
		return opLocal
	case "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":
		return opLocalIP
	case "DOWNSTREAM_LOCAL_PORT":
		return opLocalPort
	case "UPSTREAM_HOST", "UPSTREAM_REMOTE_ADDRESS":
		return opUpstream
	case "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":
		return opUpstreamIP
	case "UPSTREAM_REMOTE_PORT":
		return opUpstreamPort
	case "UPSTREAM_LOCAL_ADDRESS":
		return opUpstreamLocal
	case "UPSTREAM_CLUSTER":
		return opUpstreamCluster
	case "UPSTREAM_CLUSTER_RAW":
		return opUpstreamClusterRaw
	case "UPSTREAM_PROTOCOL":
		return opUpstreamProtocol
	case "ROUTE_NAME":
		return opRouteName
	case "REQUESTED_SERVER_NAME":
		return opServerName
	case "RESPONSE_CODE":
		return opResponseCode
	case "RESPONSE_FLAGS":
		return opResponseFlags
	case "RESPONSE_CODE_DETAILS":
		return opResponseDetails
	case "HOSTNAME":
		return opHostname
	}
	return opNone
}

// ParseFormat compiles a header value. The error names the operator that is
// unknown or malformed, and where it stands.
func ParseFormat(s string) (*Format, error) {
	f := &Format{}
	var text []byte
	for i := 0; i < len(s); {
		if s[i] != '%' {
			text = append(text, s[i])
			i++
			continue
		}
		if strings.HasPrefix(s[i:], "%%") {
			text = append(text, '%')
			i += 2
			continue
		}
		p, n, err := parseOperator(s[i:])
		if err != nil {
			return nil, fmt.Errorf("at offset %d: %w", i, err)
		}
		i += n
		if p.op == opHostname {
			text = append(text, p.text...)
			continue
		}
		p.text, text = text, nil
		f.parts = append(f.parts, p)
	}
	if len(text) > 0 || len(f.parts) == 0 {
		f.parts = append(f.parts, formatPart{text: text})
	}
	return f, nil
}

// parseOperator reads one %NAME(argument):length% from the start of s and
// returns how long it is.
func parseOperator(s string) (p formatPart, n int, err error) {
	i := 1
	for i < len(s) && (s[i] == '_' || '0' <= s[i] && s[i] <= '9' || 'A' <= s[i] && s[i] <= 'Z') {
		i++
	}
	name, rest := s[1:i], s[i:]
	arg, hasArg := "", false
	if strings.HasPrefix(rest, "(") {
		hasArg = true
		if arg, rest, err = parseArgument(rest); err != nil {
			return p, 0, err
		}
	}
	hasMost := strings.HasPrefix(rest, ":")
	if hasMost {
		digits := rest[1:]
		if k := strings.IndexByte(digits, '%'); k >= 0 {
			digits, rest = digits[:k], digits[k:]
		}
		if p.most, err = strconv.Atoi(digits); err != nil || p.most < 1 || digits[0] == '+' {
			return p, 0, fmt.Errorf("the length of %%%s%% has to be a number above 0", name)
		}
	}
	if name == "" || !strings.HasPrefix(rest, "%") {
		return p, 0, fmt.Errorf(`a "%%" begins no operator such as %%PROTOCOL%% or %%REQ(NAME)%%; write "%%%%" for a percent sign`)
	}
	n = len(s) - len(rest) + 1
	return p, n, p.resolve(name, arg, hasArg && arg != "", hasMost)
}

// parseArgument reads a parenthesized argument. As in Envoy it ends at the
// first ')' with which the operator can end, so that it may hold others.
func parseArgument(s string) (arg, rest string, err error) {
	for i := 1; i < len(s); i++ {
		if s[i] != ')' {
			continue
		}
		end := strings.TrimLeft(strings.TrimPrefix(s[i+1:], ":"), "0123456789")
		if strings.HasPrefix(end, "%") {
			return s[1:i], s[i+1:], nil
		}
	}
	return "", "", fmt.Errorf("the operator's argument is not closed by )%%")
}

// resolve turns an operator's name and argument into what is done for it.
func (p *formatPart) resolve(name, arg string, hasArg, hasMost bool) (err error) {
	switch name {
	case "REQ", "RESP":
		p.op = opRequest
		if name == "RESP" {
			p.op = opResponse
		}
		p.ref, p.alt, err = parseHeaderArgument(name, arg)
		return err
	case "DYNAMIC_METADATA":
		p.op = opMetadata
		if p.data, err = http.ParseMetadataPath(arg); err != nil {
			return fmt.Errorf("%%%s(%s)%%: %w", name, arg, err)
		}
		return nil
	case "QUERY_PARAM":
		p.op, p.arg = opQuery, arg
		if arg == "" {
			return fmt.Errorf("%%QUERY_PARAM%% needs a parameter's name")
		}
		return nil
	}
	if hasMost {
		return fmt.Errorf("%%%s%% takes no length", name)
	}
	switch {
	case name == "PATH" && (arg == "" || arg == "WQ"):
		p.op = opPathQuery
	case name == "PATH" && arg == "NQ":
		p.op = opPathOnly
	case name == "START_TIME" && arg == "":
		p.op = opStartTime
	case name == "START_TIME" && arg == "%s":
		p.op = opStartSeconds
	case name == "PATH" || name == "START_TIME":
		return fmt.Errorf("%%%s(%s)%%: this argument is not supported in header values", name, arg)
	default:
		p.op = plainOperator(name)
		if p.fact = http.LookupTLSFact(name); p.fact != http.TLSNoFact {
			p.op = opTLS
		}
		if p.op == opNone {
			return fmt.Errorf("the operator %%%s%% is not supported in header values", name)
		}
		if hasArg {
			return fmt.Errorf("%%%s%% takes no argument", name)
		}
	}
	if p.op == opHostname {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("%%HOSTNAME%%: %w", err)
		}
		p.text = []byte(host)
	}
	return nil
}

// parseHeaderArgument reads NAME or NAME?ALTERNATIVE.
func parseHeaderArgument(op, arg string) (ref, alt *filter.HeaderRef, err error) {
	first, second, two := strings.Cut(arg, "?")
	for i, name := range []string{first, second} {
		if i == 1 && (!two || name == "") {
			break
		}
		if !validRefName(name) {
			return nil, nil, fmt.Errorf("%%%s(%s)%% names no header", op, arg)
		}
		r := filter.NewHeaderRef(name)
		if i == 0 {
			ref = &r
		} else {
			alt = &r
		}
	}
	return ref, alt, nil
}

func validRefName(name string) bool {
	name = strings.TrimPrefix(name, ":")
	return ValidHeaderName(name)
}

// Literal returns the value if it is the same for every request.
func (f *Format) Literal() ([]byte, bool) {
	if len(f.parts) == 1 && f.parts[0].op == opNone {
		return f.parts[0].text, true
	}
	return nil, false
}

// Append appends the value for an exchange. response tells whether the
// response's head is there to be read.
func (f *Format) Append(dst []byte, ex *http.Exchange, response bool) []byte {
	for i := range f.parts {
		p := &f.parts[i]
		dst = append(dst, p.text...)
		start := len(dst)
		dst = p.append(dst, ex, response)
		if p.most > 0 && len(dst)-start > p.most {
			dst = dst[:start+p.most]
		}
	}
	return dst
}

func (p *formatPart) append(dst []byte, ex *http.Exchange, response bool) []byte {
	switch p.op {
	case opRequest:
		v, ok := p.ref.Get(&ex.Req)
		if (!ok || len(v) == 0) && p.alt != nil {
			v, _ = p.alt.Get(&ex.Req)
		}
		return append(dst, v...)
	case opResponse:
		if !response {
			return dst
		}
		v, ok := p.ref.GetFields(&ex.Resp.Fields)
		if (!ok || len(v) == 0) && p.alt != nil {
			v, _ = p.alt.GetFields(&ex.Resp.Fields)
		}
		return append(dst, v...)
	case opQuery:
		_, query := match.CutQuery(ex.Req.Path)
		v, _ := match.QueryValue(query, p.arg)
		return append(dst, v...)
	case opPathQuery:
		return append(dst, ex.Req.Path...)
	case opPathOnly:
		path, _ := match.CutQuery(ex.Req.Path)
		return append(dst, path...)
	case opMetadata:
		start := len(dst)
		dst, _ = p.data.Append(dst, &ex.Metadata)
		harmless(dst[start:])
		return dst
	case opProtocol:
		return append(dst, ex.Req.Protocol.String()...)
	case opRouteName:
		return append(dst, ex.RouteName...)
	case opResponseCode:
		return strconv.AppendInt(dst, int64(ex.Resp.Status), 10)
	case opResponseFlags:
		return ex.Flags.Append(dst)
	case opResponseDetails:
		return append(dst, ex.Details...)
	case opStartTime:
		return http.WallTime(ex.Start).UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	case opStartSeconds:
		return strconv.AppendInt(dst, http.WallTime(ex.Start).Unix(), 10)
	}
	if p.op >= opUpstream && p.op <= opUpstreamProtocol {
		return appendUpstream(dst, p.op, ex)
	}
	if p.op == opTLS {
		return appendTLS(dst, p.fact, ex.Conn)
	}
	return appendDownstream(dst, p.op, ex.Conn)
}

func appendUpstream(dst []byte, op operator, ex *http.Exchange) []byte {
	address := ""
	if ex.Upstream != nil {
		address = ex.Upstream.Address
	}
	host, port := splitAddress(address)
	switch op {
	case opUpstream:
		return append(dst, address...)
	case opUpstreamIP:
		return append(dst, host...)
	case opUpstreamPort:
		return append(dst, port...)
	case opUpstreamLocal:
		return append(dst, ex.UpstreamLocal...)
	case opUpstreamCluster:
		return append(dst, ex.ClusterObserved()...)
	case opUpstreamClusterRaw:
		return append(dst, ex.ClusterName...)
	case opUpstreamProtocol:
		if ex.UpstreamProtocol != http.ProtocolUnknown {
			return append(dst, ex.UpstreamProtocol.String()...)
		}
	}
	return dst
}

func appendDownstream(dst []byte, op operator, conn *http.ConnInfo) []byte {
	if conn == nil {
		return dst
	}
	switch op {
	case opRemote:
		return append(dst, conn.Remote...)
	case opRemoteIP:
		host, _ := splitAddress(conn.Remote)
		return append(dst, host...)
	case opRemotePort:
		_, port := splitAddress(conn.Remote)
		return append(dst, port...)
	case opLocal:
		return append(dst, conn.Destination()...)
	case opLocalIP:
		host, _ := splitAddress(conn.Destination())
		return append(dst, host...)
	case opLocalPort:
		_, port := splitAddress(conn.Destination())
		return append(dst, port...)
	case opServerName:
		return http.AppendServerName(dst, conn.SNI)
	}
	return dst
}

// appendTLS appends a fact of the handshake, without what no field value may hold.
func appendTLS(dst []byte, f http.TLSFact, conn *http.ConnInfo) []byte {
	if at, ok := conn.TimeFact(f); ok {
		return at.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	}
	start := len(dst)
	dst = append(dst, conn.Fact(f)...)
	harmless(dst[start:])
	return dst
}

// harmless puts something else where there is what no field value may hold.
func harmless(value []byte) {
	for i, c := range value {
		if c < ' ' || c == 0x7f {
			value[i] = '?'
		}
	}
}

// splitAddress splits ip:port text; the address loses its brackets.
func splitAddress(s string) (host, port string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.IndexByte(s[i:], ']') >= 0 {
		return s, ""
	}
	host, port = s[:i], s[i+1:]
	if len(host) >= 2 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	return host, port
}
