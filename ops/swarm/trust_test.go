package swarm

import (
	"net/http"
	"net/netip"
	"slices"
	"testing"

	"waggle/ops"
)

func TestRegistryTrust(t *testing.T) {
	c, _ := fake(t, map[string]http.HandlerFunc{"GET /info": says(`{
		"Swarm": {"NodeAddr": "10.0.0.11"},
		"RegistryConfig": {
			"InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128", "10.99.0.0/24"],
			"IndexConfigs": {
				"docker.io": {"Name": "docker.io", "Secure": true, "Official": true},
				"reg.example.com:5000": {"Name": "reg.example.com:5000", "Secure": false}}}}`)})
	got, err := c.RegistryTrust(t.Context())
	want := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("10.99.0.0/24")}
	if err != nil || got.Addr != "10.0.0.11" || !slices.Equal(got.Hosts, []string{"reg.example.com:5000"}) || !slices.Equal(got.Networks, want) {
		t.Errorf("%+v, %v", got, err)
	}
	c, _ = fake(t, map[string]http.HandlerFunc{"GET /info": says(`{}`)})
	if got, err := c.RegistryTrust(t.Context()); err != nil || len(got.Networks)+len(got.Hosts) != 0 || got.Addr != "" {
		t.Errorf("of an engine that says nothing: %+v, %v", got, err)
	}
	c, _ = fake(t, map[string]http.HandlerFunc{"GET /info": fails(500, "no")})
	_, err = c.RegistryTrust(t.Context())
	wantError(t, err, ops.Internal, "ask Docker about its registries")
}
