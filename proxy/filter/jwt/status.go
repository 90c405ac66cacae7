// SPDX-License-Identifier: Apache-2.0

package jwt

import (
	"strings"

	"pillion/proxy/http"
)

// Status is what became of a token, in the order and so with the numbers of
// Envoy's (source/common/jwt/status.h): failed_status_in_metadata tells them.
type Status uint8

// The statuses that a request can end with.
const (
	OK Status = iota
	Missing
	NotYetValid
	Expired
	BadFormat
	HeaderBadBase64
	HeaderBadJSON
	HeaderBadAlg
	HeaderUnknownAlg
	HeaderBadKid
	PayloadBadBase64
	PayloadBadJSON
	IssNotString
	SubNotString
	IatNotInteger
	IatOutOfRange
	NbfNotInteger
	NbfOutOfRange
	ExpNotInteger
	ExpOutOfRange
	JtiNotString
	AudNotString
	SignatureBadBase64
	Ed25519WrongLength
	UnknownIssuer
	AudienceNotAllowed
	VerificationFail
	multipleTokens // Envoy never answers with these four
	jwksParseError
	jwksNoKeys
	jwksBadKeys
	JwksNoValidKeys
	JwksKidAlgMismatch
	jwksRSAParseError // nor with these six
	jwksECCreateKeyFail
	jwksECBadBase64
	jwksECParseError
	jwksOctBadBase64
	jwksOKPBadBase64
	jwksOKPWrongLength
	JwksFetchFail
	numStatuses
)

// texts are the bodies of Envoy's replies (source/common/jwt/status.cc).
var texts = [numStatuses]string{
	OK:                 "OK",
	Missing:            "Jwt is missing",
	NotYetValid:        "Jwt not yet valid",
	Expired:            "Jwt is expired",
	BadFormat:          "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
	HeaderBadBase64:    "Jwt header is an invalid Base64url encoded",
	HeaderBadJSON:      "Jwt header is an invalid JSON",
	HeaderBadAlg:       "Jwt header [alg] field is required and must be a string",
	HeaderUnknownAlg:   "Jwt header [alg] is not supported",
	HeaderBadKid:       "Jwt header [kid] field is not a string",
	PayloadBadBase64:   "Jwt payload is an invalid Base64url encoded",
	PayloadBadJSON:     "Jwt payload is an invalid JSON",
	IssNotString:       "Jwt payload [iss] field is not a string",
	SubNotString:       "Jwt payload [sub] field is not a string",
	IatNotInteger:      "Jwt payload [iat] field is not an integer",
	IatOutOfRange:      "Jwt payload [iat] field is not a positive 64 bit integer",
	NbfNotInteger:      "Jwt payload [nbf] field is not an integer",
	NbfOutOfRange:      "Jwt payload [nbf] field is not a positive 64 bit integer",
	ExpNotInteger:      "Jwt payload [exp] field is not an integer",
	ExpOutOfRange:      "Jwt payload [exp] field is not a positive 64 bit integer",
	JtiNotString:       "Jwt payload [jti] field is not a string",
	AudNotString:       "Jwt payload [aud] field is not a string or string list",
	SignatureBadBase64: "Jwt signature is an invalid Base64url encoded",
	Ed25519WrongLength: "Jwt ED25519 signature is wrong length",
	UnknownIssuer:      "Jwt issuer is not configured",
	AudienceNotAllowed: "Audiences in Jwt are not allowed",
	VerificationFail:   "Jwt verification fails",
	JwksNoValidKeys:    "Jwks doesn't have any valid public key",
	JwksKidAlgMismatch: "Jwks doesn't have key to match kid or alg from Jwt",
	JwksFetchFail:      "Jwks remote fetch is failed",
}

// String returns Envoy's words for the status.
func (s Status) String() string { return texts[s] }

// refusals are the failed exchanges, one for each status.
var refusals = func() (all [numStatuses]*http.Error) {
	for s := OK + 1; s < numStatuses; s++ {
		all[s] = &http.Error{Side: http.SideLocal, Kind: http.KindPolicy, Status: 401,
			Detail: "jwt_authn_access_denied{" + strings.ReplaceAll(texts[s], " ", "_") + "}"}
	}
	all[AudienceNotAllowed].Status = 403
	return all
}()

// refusal is the failed exchange that a status means.
func (s Status) refusal() *http.Error { return refusals[s] }
