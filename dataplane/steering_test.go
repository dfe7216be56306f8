package dataplane

import "testing"

func TestSteeringBy(t *testing.T) {
	for _, c := range []struct {
		s             Steering
		queues, cores int
		want          string
	}{{SteeringAuto, 1, 1, "device"}, {SteeringAuto, 1, 4, "software"}, {SteeringAuto, 4, 4, "device"}, {SteeringAuto, 8, 4, "device"},
		{SteeringDevice, 1, 4, "device"}, {SteeringSoftware, 4, 4, "software"}, {SteeringSoftware, 1, 1, "device"}} {
		if got := c.s.By(c.queues, c.cores); got != c.want {
			t.Errorf("steering %d of %d queues by %d cores: %s, want %s", c.s, c.queues, c.cores, got, c.want)
		}
	}
}
