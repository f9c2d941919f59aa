package zonefile

import (
	"strings"
	"testing"
)

// A signer that knows more types than the dns package writes their names into bit maps.
func TestTypesOfLaterRFCs(t *testing.T) {
	z, found := Parse(strings.NewReader(`example. 300 IN SOA ns mail 1 1 1 1 1
example. 300 IN NS ns.test.
example. 300 IN TYPE66 \# 6 003b01000000
example. 300 IN WALLET \# 2 0161
example. 300 IN NSEC example. NS SOA NSEC DSYNC WALLET
`), Options{})
	if z == nil || z.Len() != 5 {
		t.Fatal(found)
	}
}
