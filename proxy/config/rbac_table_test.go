// SPDX-License-Identifier: Apache-2.0

package config

import "strings"

// permit is a rule set that allows one permission to everybody, refuse one that
// denies it.
func permit(permission string) string {
	return `{action: ALLOW, policies: {"ns[a]-policy[p]-rule[0]": {permissions: [` + permission + `], principals: [{any: true}]}}}`
}

func refuse(permission string) string {
	return `{action: DENY, policies: {"ns[a] policy[p] rule[0]": {permissions: [` + permission + `], principals: [{any: true}]}}}`
}

// admit and shut are the same for a principal.
func admit(principal string) string {
	return `{action: ALLOW, policies: {b: {permissions: [{any: true}], principals: [` + principal + `]}}}`
}

func shut(principal string) string {
	return `{action: DENY, policies: {b: {permissions: [{any: true}], principals: [` + principal + `]}}}`
}

func claim(path, value string) string {
	var keys []string
	for _, k := range strings.Split(path, ".") {
		keys = append(keys, "{key: "+k+"}")
	}
	return `{metadata: {filter: envoy.filters.http.jwt_authn, path: [` + strings.Join(keys, ", ") + `], value: ` + value + `}}`
}

func shape(template string) string {
	return `{uri_template: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: "` + template + `"}}}`
}

// rbacRules are the rule sets of the table.
var rbacRules = []string{
	// Whole sets.
	`{}`,
	`{action: DENY}`,
	`{action: 2}`,
	permit(`{any: true}`), refuse(`{any: true}`),
	`{action: 2, policies: {p: {permissions: [{any: true}], principals: [{any: true}]}}}`,
	`{action: DENY, policies: {z: {permissions: [{any: true}], principals: [{any: true}]}, a: {permissions: [{url_path: {path: {prefix: /admin}}}], principals: [{any: true}]}, "a b": {permissions: [{url_path: {path: {exact: /a/b}}}], principals: [{any: true}]}}}`,
	`{policies: {a: {permissions: [{url_path: {path: {exact: /}}}, {header: {name: ":method", string_match: {exact: POST}}}], principals: [{any: true}, {header: {name: x-role, present_match: true}}]}}}`,

	// Logic.
	permit(`{and_rules: {rules: [{url_path: {path: {prefix: /}}}, {header: {name: x-role, present_match: true}}]}}`),
	permit(`{or_rules: {rules: [{url_path: {path: {exact: /admin}}}, {header: {name: x-role, present_match: true}}]}}`),
	permit(`{not_rule: {header: {name: x-role, string_match: {exact: admin}}}}`),
	refuse(`{not_rule: {header: {name: x-role, string_match: {exact: admin}}}}`),
	permit(`{not_rule: {not_rule: {and_rules: {rules: [{not_rule: {url_path: {path: {exact: /admin}}}}]}}}}`),
	admit(`{and_ids: {ids: [{any: true}, {not_id: {header: {name: x-role, string_match: {prefix: ad}}}}]}}`),
	admit(`{or_ids: {ids: [{header: {name: x-role, string_match: {suffix: ser}}}, {url_path: {path: {exact: /admin}}}]}}`),

	// Headers.
	refuse(`{header: {name: x-role, string_match: {exact: admin}}}`),
	permit(`{header: {name: X-Role, string_match: {exact: admin}}}`),
	permit(`{header: {name: x-role, string_match: {exact: "user,admin"}}}`),
	permit(`{header: {name: x-role, string_match: {exact: ADMIN, ignore_case: true}}}`),
	permit(`{header: {name: x-role, string_match: {exact: admin}, invert_match: true}}`),
	permit(`{header: {name: x-role, string_match: {exact: admin}, invert_match: true, treat_missing_header_as_empty: true}}`),
	permit(`{header: {name: x-role, string_match: {contains: dmi}}}`),
	permit(`{header: {name: x-role, string_match: {prefix: adm}}}`),
	permit(`{header: {name: x-role, string_match: {suffix: MIN, ignore_case: true}}}`),
	permit(`{header: {name: x-role, string_match: {safe_regex: {regex: "a.*n"}}}}`),
	permit(`{header: {name: x-role, string_match: {safe_regex: {regex: ".*"}}}}`),
	permit(`{header: {name: x-role, present_match: false}}`),
	permit(`{header: {name: x-role, present_match: true, invert_match: true}}`),
	permit(`{header: {name: x-number, range_match: {start: 5, end: 10}}}`),
	refuse(`{header: {name: x-text, string_match: {safe_regex: {regex: ".*evil.*"}}}}`),
	permit(`{header: {name: x-text, string_match: {safe_regex: {regex: ".{5}"}}}}`),
	permit(`{header: {name: x-text, string_match: {safe_regex: {regex: "evil[^a]"}}}}`),
	refuse(`{header: {name: x-text, string_match: {contains: evil}}}`),
	permit(`{header: {name: ":method", string_match: {exact: GET}}}`),
	refuse(`{header: {name: ":method", string_match: {safe_regex: {regex: "GET|HEAD"}}}}`),
	permit(`{header: {name: ":method", string_match: {exact: get}}}`),
	permit(`{header: {name: ":authority", string_match: {exact: a.example.com}}}`),
	permit(`{header: {name: ":authority", string_match: {exact: a.example.com, ignore_case: true}}}`),
	permit(`{header: {name: ":authority", string_match: {prefix: "a.example.com:", ignore_case: true}}}`),
	permit(`{header: {name: ":authority", string_match: {suffix: ".com"}}}`),
	permit(`{header: {name: host, string_match: {exact: a.example.com}}}`),
	permit(`{header: {name: ":path", string_match: {exact: /admin}}}`),
	permit(`{header: {name: ":path", string_match: {prefix: /admin}}}`),
	permit(`{header: {name: ":path", string_match: {contains: "?"}}}`),
	permit(`{header: {name: ":scheme", string_match: {exact: http}}}`),
	permit(`{header: {name: x-forwarded-proto, string_match: {exact: http}}}`),
	permit(`{header: {name: x-request-id, present_match: true}}`),
	permit(`{header: {name: content-length, present_match: true}}`),
	permit(`{header: {name: user-agent, string_match: {prefix: curl}}}`),
	permit(`{header: {name: cookie, string_match: {exact: "a=1; b=2"}}}`),
	permit(`{header: {name: connection, present_match: true}}`),

	// Paths.
	permit(`{url_path: {path: {exact: /admin}}}`),
	refuse(`{url_path: {path: {exact: /admin}}}`),
	permit(`{url_path: {path: {exact: /ADMIN, ignore_case: true}}}`),
	permit(`{url_path: {path: {prefix: /admin}}}`),
	permit(`{url_path: {path: {suffix: /b}}}`),
	permit(`{url_path: {path: {contains: dm}}}`),
	permit(`{url_path: {path: {safe_regex: {regex: "/a.*"}}}}`),
	permit(`{url_path: {path: {safe_regex: {regex: "/[^/]+"}}}}`),
	refuse(`{url_path: {path: {exact: /a/b}}}`),
	shut(`{url_path: {path: {prefix: /a/}}}`),
	permit(shape("/a/*/c")), permit(shape("/a/*")), permit(shape("/a/**")), permit(shape("/**")), permit(shape("/*")),
	permit(shape("/a/{v}/c")), permit(shape("/{v=**}/c")), permit(shape("/{v=a/*}")), permit(shape("/a/**/c")), permit(shape("/*/**")),
	permit(shape("/admin")), permit(shape("/*.html")), permit(shape("/**.html")), permit(shape("/{v}dmin")), refuse(shape("/a/*/c")),

	// Addresses.
	permit(`{destination_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}`),
	permit(`{destination_ip: {address_prefix: 127.9.9.9, prefix_len: 8}}`),
	permit(`{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}`),
	permit(`{destination_ip: {address_prefix: 10.0.0.0}}`),
	permit(`{destination_ip: {address_prefix: "::", prefix_len: 0}}`),
	permit(`{destination_port: 1}`),
	permit(`{destination_port_range: {start: 1, end: 65536}}`),
	permit(`{destination_port_range: {start: 1, end: 2}}`),
	admit(`{source_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}`),
	shut(`{source_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}`),
	admit(`{source_ip: {address_prefix: 1.2.3.0, prefix_len: 24}}`),
	admit(`{direct_remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}`),
	admit(`{direct_remote_ip: {address_prefix: 1.2.3.0, prefix_len: 24}}`),
	admit(`{remote_ip: {address_prefix: 1.2.3.4, prefix_len: 32}}`),
	admit(`{remote_ip: {address_prefix: 5.6.7.8, prefix_len: 32}}`),
	admit(`{remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}`),
	admit(`{remote_ip: {address_prefix: "2001:db8::", prefix_len: 32}}`),
	admit(`{remote_ip: {address_prefix: "::ffff:0:0", prefix_len: 96}}`),
	shut(`{remote_ip: {address_prefix: 1.2.3.4, prefix_len: 32}}`),
	admit(`{not_id: {remote_ip: {address_prefix: 1.2.3.4, prefix_len: 32}}}`),

	// Peers, of which a connection in clear has none.
	admit(`{authenticated: {}}`),
	shut(`{authenticated: {}}`),
	admit(`{not_id: {authenticated: {}}}`),
	admit(`{authenticated: {principal_name: {safe_regex: {regex: ".*"}}}}`),
	admit(`{not_id: {authenticated: {principal_name: {exact: "spiffe://a/ns/b/sa/c"}}}}`),
	permit(`{requested_server_name: {exact: ""}}`),
	permit(`{requested_server_name: {exact: a}}`),

	// Claims.
	admit(claim("payload.iss", `{string_match: {exact: issuer}}`)),
	admit(claim("payload.iss", `{string_match: {prefix: iss}}`)),
	shut(claim("payload.iss", `{string_match: {safe_regex: {regex: "i.*"}}}`)),
	admit(claim("payload.none", `{string_match: {safe_regex: {regex: ".*"}}}`)),
	admit(claim("payload.sub", `{string_match: {exact: ""}}`)),
	admit(claim("payload.groups", `{list_match: {one_of: {string_match: {exact: b}}}}`)),
	admit(claim("payload.groups", `{list_match: {one_of: {string_match: {exact: c}}}}`)),
	admit(claim("payload.groups", `{string_match: {exact: a}}`)),
	admit(claim("payload.iss", `{list_match: {one_of: {string_match: {exact: issuer}}}}`)),
	admit(claim("payload.iss", `{or_match: {value_matchers: [{string_match: {exact: x}}, {string_match: {exact: issuer}}]}}`)),
	admit(claim("payload.empty", `{list_match: {one_of: {present_match: true}}}`)),
	admit(claim("payload.empty", `{present_match: true}`)),
	admit(claim("payload.mixed", `{list_match: {one_of: {null_match: {}}}}`)),
	admit(claim("payload.mixed", `{list_match: {one_of: {double_match: {exact: 1}}}}`)),
	admit(claim("payload.nested.one.two", `{string_match: {exact: deep}}`)),
	admit(claim("payload.nested.one", `{present_match: true}`)),
	admit(claim("payload.nested.one.two.three", `{present_match: true}`)),
	admit(claim("payload.number", `{double_match: {exact: 5}}`)),
	admit(claim("payload.number", `{double_match: {range: {start: 1, end: 5}}}`)),
	admit(claim("payload.half", `{double_match: {range: {start: 0, end: 1}}}`)),
	admit(claim("payload.number", `{string_match: {exact: "5"}}`)),
	admit(claim("payload.truth", `{bool_match: true}`)),
	admit(claim("payload.lie", `{bool_match: false}`)),
	admit(claim("payload.none", `{bool_match: false}`)),
	admit(claim("payload.nothing", `{null_match: {}}`)),
	admit(claim("payload.nothing", `{present_match: true}`)),
	admit(claim("payload.none", `{null_match: {}}`)),
	admit(claim("payload.none", `{present_match: true}`)),
	admit(claim("payload.none", `{present_match: false}`)),
	admit(claim("payload.iss", `{present_match: false}`)),
	admit(`{metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: none}], value: {present_match: true}, invert: true}}`),
	admit(`{metadata: {filter: other, path: [{key: payload}], value: {present_match: true}}}`),
	permit(`{sourced_metadata: {metadata_matcher: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: iss}], value: {string_match: {exact: issuer}}}}}`),
}

const exampleHost = "\r\nHost: a.example.com"

// rbacRequests are the requests of the table, without the blank line.
var rbacRequests = []string{
	"GET /" + exampleHost,
	"GET /admin" + exampleHost,
	"GET /admin?x=1" + exampleHost,
	"GET /admin?x=/a/b" + exampleHost,
	"GET /ADMIN" + exampleHost,
	"GET /admin/" + exampleHost,
	"GET /admin;x=y" + exampleHost,
	"GET /admin%2f" + exampleHost,
	"GET /%61dmin" + exampleHost,
	"GET //admin" + exampleHost,
	"GET /a/b" + exampleHost,
	"GET /a/b/c" + exampleHost,
	"GET /a//c" + exampleHost,
	"GET /a/x*y/c?q" + exampleHost,
	"GET /a/x%20y/c" + exampleHost,
	"GET /a/" + exampleHost,
	"GET /a/x/y/c" + exampleHost,
	"GET /a/b!$&'()+,;:@=~-._/c" + exampleHost,
	"GET /a/b|/c" + exampleHost,
	"GET /x.html" + exampleHost,
	"GET /.html" + exampleHost,
	"POST /admin" + exampleHost + "\r\nContent-Length: 0",
	"HEAD /admin" + exampleHost,
	"DELETE /a/b" + exampleHost,
	"PURGE /a" + exampleHost,
	"GET /admin\r\nHost: A.Example.COM",
	"GET /admin\r\nHost: a.example.com:8080",
	"GET /admin\r\nHost: a.example.com.",
	"GET http://a.example.com/admin\r\nHost: a.example.com",
	"GET /" + exampleHost + "\r\nx-role: admin",
	"GET /" + exampleHost + "\r\nX-ROLE: admin",
	"GET /" + exampleHost + "\r\nx-role: Admin",
	"GET /" + exampleHost + "\r\nx-role: user\r\nx-role: admin",
	"GET /" + exampleHost + "\r\nx-role: admin\r\nx-role: user",
	"GET /" + exampleHost + "\r\nx-role: user,admin",
	"GET /" + exampleHost + "\r\nx-role: user",
	"GET /" + exampleHost + "\r\nx-role:",
	"GET /" + exampleHost + "\r\nx-role:  admin ",
	"GET /" + exampleHost + "\r\nx-role: administrator",
	"GET /" + exampleHost + "\r\nx-number: 5",
	"GET /" + exampleHost + "\r\nx-number: 10",
	"GET /" + exampleHost + "\r\nx-text: evil\xff",
	"GET /" + exampleHost + "\r\nx-text: \xffevil",
	"GET /" + exampleHost + "\r\nx-text: evil\xc3\xa9",
	"GET /" + exampleHost + "\r\nx-text: evils",
	"GET /" + exampleHost + "\r\nx-text: e\xc0\x80il",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 1.2.3.4",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 1.2.3.4, 5.6.7.8",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 5.6.7.8,1.2.3.4",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 5.6.7.8\r\nx-forwarded-for: 1.2.3.4",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 1.2.3.4,",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 1.2.3.4:80",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 999.2.3.4",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 01.2.3.4",
	"GET /" + exampleHost + "\r\nx-forwarded-for: 2001:db8::1",
	"GET /" + exampleHost + "\r\nx-forwarded-for: [2001:db8::1]",
	"GET /" + exampleHost + "\r\nx-forwarded-for: ::ffff:1.2.3.4",
	"GET /" + exampleHost + "\r\nx-forwarded-for: unknown",
	"GET /" + exampleHost + "\r\nuser-agent: curl/8",
	"GET /" + exampleHost + "\r\ncookie: a=1; b=2",
	"GET /" + exampleHost + "\r\ncookie: a=1\r\ncookie: b=2",
	"GET /" + exampleHost + "\r\nx-forwarded-proto: https",
	"GET /" + exampleHost + "\r\nx-real-ip: 1.2.3.4\r\nx-envoy-original-path: /admin",
	"GET /" + exampleHost + "\r\nx-forwarded-client-cert: URI=spiffe://a/ns/b/sa/c",
}
