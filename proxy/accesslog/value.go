// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"encoding/hex"
	"strconv"
	"strings"

	"pillion/proxy/http"
)

// number returns the value of a numeric operator, false if it has none.
func (s *segment) number(ex *http.Exchange) (int64, bool) {
	switch s.op {
	case opResponseCode:
		return int64(ex.Resp.Status), true
	case opBytesReceived:
		return ex.RequestBodyBytes, true
	case opBytesSent:
		return ex.ResponseBodyBytes, true
	case opRequestHeadBytes:
		return ex.RequestHeadBytes, true
	case opResponseHeadBytes:
		return ex.ResponseHeadBytes, true
	case opDuration:
		return spanTotal.of(ex)
	case opRequestDuration:
		return spanRequest.of(ex)
	case opResponseDuration:
		return spanResponse.of(ex)
	case opResponseTxDuration:
		return spanResponseTx.of(ex)
	case opSpan:
		return s.span.of(ex)
	case opAttempts:
		return int64(ex.Attempts), true
	case opGRPCStatusNumber:
		return grpcStatus(ex)
	case opUpstreamPort:
		return portOf(upstreamAddress(ex))
	case opUpstreamLocalPort:
		return portOf(ex.UpstreamLocal)
	case opDownstreamLocalPort:
		return portOf(local(ex))
	case opDirectRemotePort:
		return portOf(remote(ex))
	case opDownstreamRemotePort:
		if ex.ClientAddress != nil {
			return 0, true
		}
		return portOf(remote(ex))
	}
	return 0, false
}

// append appends the value of an operator, escaped, and returns false if it
// has none.
func (s *segment) append(dst []byte, ex *http.Exchange, enc encoding) ([]byte, bool) {
	if s.op.numeric() {
		n, ok := s.number(ex)
		if !ok {
			return dst, false
		}
		return strconv.AppendInt(dst, n, 10), true
	}
	switch s.op {
	case opConstant:
		return appendEscaped(dst, s.lit, enc), true
	case opRequestField, opRequestFieldNoQuery, opResponseField, opTrailer:
		return s.appendField(dst, ex, enc)
	case opStartTime:
		return s.time.append(dst, http.WallTime(ex.Start)), ex.Start != 0
	case opTLSTime:
		at, ok := ex.Conn.TimeFact(s.fact)
		if !ok {
			return dst, false
		}
		return s.time.append(dst, at), true
	case opEmitTime:
		return s.time.append(dst, http.WallTime(http.Now())), true
	case opResponseFlags:
		return ex.Flags.Append(dst), true
	case opResponseFlagsLong:
		return appendLongFlags(dst, ex.Flags), true
	case opDetails:
		return appendDetails(dst, ex.Details, enc, s.spaces)
	case opUpstreamFailure:
		return appendDetails(dst, ex.UpstreamFailure, enc, false)
	case opDownstreamFailure:
		return appendDetails(dst, ex.DownstreamFailure, enc, false)
	case opServerName:
		return appendServerName(dst, ex)
	case opDownstreamRemote, opDownstreamRemoteIP:
		if ex.ClientAddress != nil {
			return appendClient(dst, ex.ClientAddress, enc, s.op == opDownstreamRemote), true
		}
	case opGRPCStatus:
		n, ok := grpcStatus(ex)
		return appendGRPCStatus(dst, n, s.snake), ok
	case opMetadata:
		return s.appendMetadata(dst, ex, enc)
	case opTraceID:
		return hex.AppendEncode(dst, ex.TraceID[:]), ex.TraceID != [16]byte{}
	case opSpanID:
		return hex.AppendEncode(dst, ex.SpanID[:]), ex.SpanID != [8]byte{}
	}
	v := s.text(ex)
	return appendEscaped(dst, v, enc), v != ""
}

// text returns the value of an operator that is a string as it stands, empty
// if it has none.
func (s *segment) text(ex *http.Exchange) string {
	switch s.op {
	case opProtocol:
		return protocolName(ex.Req.Protocol)
	case opUpstreamProtocol:
		return protocolName(ex.UpstreamProtocol)
	case opTerminationDetails:
		return ex.TerminationDetails
	case opUpstreamHost:
		return upstreamAddress(ex)
	case opUpstreamHostIP:
		return http.HostOf(upstreamAddress(ex))
	case opUpstreamCluster:
		return ex.ClusterObserved()
	case opUpstreamClusterRaw:
		return ex.ClusterName
	case opUpstreamLocal:
		return ex.UpstreamLocal
	case opUpstreamLocalIP:
		return http.HostOf(ex.UpstreamLocal)
	case opDownstreamLocal:
		return local(ex)
	case opDownstreamLocalIP:
		return http.HostOf(local(ex))
	case opDownstreamRemote, opDirectRemote:
		return remote(ex)
	case opDownstreamRemoteIP, opDirectRemoteIP:
		return http.HostOf(remote(ex))
	case opRouteName:
		return ex.RouteName
	case opTLS:
		return ex.Conn.Fact(s.fact)
	}
	return ""
}

// appendMetadata appends what filters found out. A string is escaped as any other
// is; what JSON there is in text stands as it is, on one line.
func (s *segment) appendMetadata(dst []byte, ex *http.Exchange, enc encoding) ([]byte, bool) {
	v, found := s.data.Value(&ex.Metadata)
	if !found {
		return dst, false
	}
	text, isText := v.(string)
	if !isText {
		text = string(http.AppendJSON(nil, v))
	}
	text = text[:clip(len(text), s.limit)]
	if !isText && enc != asJSON {
		return append(dst, text...), true
	}
	return appendEscaped(dst, text, enc), true
}

// appendMetadataJSON appends it as a value of its own kind. As with Envoy a length
// cuts strings alone.
func (s *segment) appendMetadataJSON(dst []byte, ex *http.Exchange) ([]byte, bool) {
	v, found := s.data.Value(&ex.Metadata)
	if !found {
		return dst, false
	}
	if text, ok := v.(string); ok {
		dst = appendEscaped(append(dst, '"'), text[:clip(len(text), s.limit)], asJSON)
		return append(dst, '"'), true
	}
	return http.AppendJSON(dst, v), true
}

// appendField appends the value of a header operator.
func (s *segment) appendField(dst []byte, ex *http.Exchange, enc encoding) ([]byte, bool) {
	if s.op == opResponseField && (s.field.pseudo == pseudoStatus || s.alt.pseudo == pseudoStatus) {
		return s.appendStatus(dst, ex, enc)
	}
	v, ok := s.lookup(&s.field, ex)
	if !ok && s.alt.name != nil {
		v, ok = s.lookup(&s.alt, ex)
	}
	if !ok {
		return dst, false
	}
	if s.op == opRequestFieldNoQuery {
		if i := bytes.IndexByte(v, '?'); i >= 0 {
			v = v[:i]
		}
	}
	if s.limit > 0 && len(v) > s.limit {
		v = v[:s.limit]
	}
	return appendEscaped(dst, v, enc), true
}

// appendStatus is appendField for RESP with :status, of which no bytes are
// kept.
func (s *segment) appendStatus(dst []byte, ex *http.Exchange, enc encoding) ([]byte, bool) {
	if s.field.pseudo != pseudoStatus {
		if v, ok := ex.Resp.Fields.Lookup(s.field.id, s.field.name); ok {
			return appendEscaped(dst, v[:clip(len(v), s.limit)], enc), true
		}
	}
	if ex.Resp.Status == 0 {
		return dst, false
	}
	start := len(dst)
	dst = strconv.AppendInt(dst, int64(ex.Resp.Status), 10)
	return dst[:start+clip(len(dst)-start, s.limit)], true
}

// clip bounds n by limit, where 0 is no limit.
func clip(n, limit int) int {
	if limit > 0 && n > limit {
		return limit
	}
	return n
}

// lookup finds the first field of that name, as Envoy does, and reports
// whether there is one, be it empty.
func (s *segment) lookup(f *fieldName, ex *http.Exchange) ([]byte, bool) {
	switch s.op {
	case opResponseField:
		if f.pseudo == notPseudo || f.pseudo == pseudoAuthority && f.name[0] != ':' {
			return ex.Resp.Fields.Lookup(f.id, f.name)
		}
		return nil, false
	case opTrailer:
		if ex.RespTrailers == nil {
			return nil, false
		}
		return ex.RespTrailers.Lookup(f.id, f.name)
	}
	switch f.pseudo {
	case pseudoMethod:
		return ex.Req.RawMethod, len(ex.Req.RawMethod) > 0
	case pseudoPath:
		return ex.Req.Path, len(ex.Req.Path) > 0
	case pseudoAuthority:
		return ex.Req.Authority, len(ex.Req.Authority) > 0
	case pseudoScheme:
		return ex.Req.Scheme, len(ex.Req.Scheme) > 0
	case notPseudo:
		v, ok := ex.Req.Fields.Lookup(f.id, f.name)
		if !ok && f.id == http.HeaderXEnvoyOriginalPath && ex.OriginalPath != nil {
			return ex.OriginalPath, true
		}
		return v, ok
	}
	return nil, false
}

// appendDetails appends text that stands unquoted in common formats: spaces
// become underscores unless they are wanted.
func appendDetails(dst []byte, text string, enc encoding, spaces bool) ([]byte, bool) {
	if text == "" {
		return dst, false
	}
	start := len(dst)
	dst = appendEscaped(dst, text, enc)
	if !spaces {
		for i := start; i < len(dst); i++ {
			if dst[i] == ' ' {
				dst[i] = '_'
			}
		}
	}
	return dst, true
}

// appendServerName appends the SNI, made harmless.
func appendServerName(dst []byte, ex *http.Exchange) ([]byte, bool) {
	if ex.Conn == nil || ex.Conn.SNI == "" {
		return dst, false
	}
	return http.AppendServerName(dst, ex.Conn.SNI), true
}

// appendClient appends the address that X-Forwarded-For gives, which has no
// port: Envoy writes 0 for it.
func appendClient(dst, address []byte, enc encoding, port bool) []byte {
	if !port {
		return appendEscaped(dst, address, enc)
	}
	v6 := bytes.IndexByte(address, ':') >= 0
	if v6 {
		dst = append(dst, '[')
	}
	dst = appendEscaped(dst, address, enc)
	if v6 {
		dst = append(dst, ']')
	}
	return append(dst, ":0"...)
}

func protocolName(p http.Protocol) string {
	if p == http.ProtocolUnknown {
		return ""
	}
	return p.String()
}

func upstreamAddress(ex *http.Exchange) string {
	if ex.Upstream == nil {
		return ""
	}
	return ex.Upstream.Address
}

func local(ex *http.Exchange) string {
	if ex.Conn == nil {
		return ""
	}
	return ex.Conn.Destination()
}

func remote(ex *http.Exchange) string {
	if ex.Conn == nil {
		return ""
	}
	return ex.Conn.Remote
}

func portOf(address string) (int64, bool) {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(address[i+1:], 10, 16)
	return int64(n), err == nil
}
