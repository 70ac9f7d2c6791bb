package swarm

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"waggle/ops"
)

// RegistryTrust returns which registries this engine speaks to without a
// certificate that it trusts.
func (c *Client) RegistryTrust(ctx context.Context) (ops.RegistryTrust, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := c.api.Info(ctx)
	if err != nil {
		return ops.RegistryTrust{}, c.failed(err, "ask Docker about its registries")
	}
	trust := ops.RegistryTrust{Addr: info.Swarm.NodeAddr}
	if info.RegistryConfig == nil {
		return trust, nil
	}
	for _, n := range info.RegistryConfig.InsecureRegistryCIDRs {
		addr, ok := netip.AddrFromSlice((*net.IPNet)(n).IP)
		ones, _ := (*net.IPNet)(n).Mask.Size()
		if ok {
			trust.Networks = append(trust.Networks, netip.PrefixFrom(addr.Unmap(), ones))
		}
	}
	for name, index := range info.RegistryConfig.IndexConfigs {
		if !index.Secure {
			trust.Hosts = append(trust.Hosts, name)
		}
	}
	slices.Sort(trust.Hosts)
	return trust, nil
}
