package mgmt

import (
	"encoding/json"
	"net"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/fake"
)

// TestAddressStates: an address that is a duplicate degrades the whole, one
// that is not proven yet makes it start.
func TestAddressStates(t *testing.T) {
	s := newServer(t)
	plane := s.cfg.Plane.(*fake.Plane)
	for _, tt := range []struct {
		state dataplane.AddressState
		want  string
	}{{dataplane.AddressPreferred, StateReady}, {dataplane.AddressTentative, StateStarting}, {dataplane.AddressDuplicate, stateDegraded}, {dataplane.AddressDeprecated, StateReady}} {
		plane.SetAddresses(0, []dataplane.Address{{Prefix: netip.MustParsePrefix("2001:db8::1/64"), State: tt.state, Origin: dataplane.AddressSLAAC,
			Conflicts: 3, Rival: net.HardwareAddr{2, 0, 0, 0, 0, 9}, Valid: -1, Preferred: 90 * time.Second}})
		w := httptest.NewRecorder()
		s.Handler(false).ServeHTTP(w, httptest.NewRequest("GET", "http://npd"+api.PathStatus, nil))
		var st api.Status
		if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil {
			t.Fatal(err)
		}
		if st.State != tt.want || (len(st.Problems) > 0) != (tt.want != StateReady) {
			t.Errorf("%s: state %s, problems %v", tt.state, st.State, st.Problems)
		}
		a := st.Interfaces[0].AddressStates
		if len(a) != 1 || a[0].Address != "2001:db8::1/64" || a[0].State != tt.state.String() || a[0].Origin != "router" || a[0].Conflicts != 3 ||
			a[0].Rival != "02:00:00:00:00:09" || a[0].Valid != nil || *a[0].Preferred != 90 {
			t.Errorf("%s: %+v", tt.state, a)
		}
	}
}
