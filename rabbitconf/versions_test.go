package rabbitconf

import "testing"

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]Version{
		"4.3.6": {4, 3, 6}, "3.10.8": {3, 10, 8}, "4.0.5-1": {4, 0, 5}, "4.1.0-rc.1": {4, 1, 0}, "3.8.9-3+deb11u1": {3, 8, 9},
		"4.2.0~rc1": {4, 2, 0}, "4.1.0.beta.2": {4, 1, 0}, " 4.3.6\n": {4, 3, 6}, "4.3": {4, 3, 0}, "4.3-management": {4, 3, 0},
	} {
		if got, err := ParseVersion(in); err != nil || got != want {
			t.Errorf("ParseVersion(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "4", "v4.3.6", "4.x", "latest", "4..3", "-4.3.6", "4.3.6 (Erlang 27)", "99999999999.1.1"} {
		if got, err := ParseVersion(in); err == nil {
			t.Errorf("ParseVersion(%q) = %v", in, got)
		}
	}
	for _, test := range []struct {
		v    Version
		want bool
	}{{Version{3, 13, 7}, false}, {Version{4, 1, 9}, false}, {Version{4, 2, 0}, true}, {Version{4, 3, 6}, true}, {Version{5, 0, 0}, true}} {
		if got := test.v.AtLeast(4, 2); got != test.want {
			t.Errorf("%v.AtLeast(4, 2) = %v", test.v, got)
		}
	}
}

// What differs, and from which version on, as upgrades pass through them.
func TestWhatDiffersByVersion(t *testing.T) {
	for _, c := range []struct {
		v                                                Version
		delays, mirrors, forgets, refills, shrinks, only bool
	}{
		{v: Version{}, delays: true, mirrors: true}, // not known
		{v: Version{3, 8, 9}, delays: true, mirrors: true},
		{v: Version{3, 9, 29}, delays: true, mirrors: true},
		{v: Version{3, 10, 8}, mirrors: true},
		{v: Version{3, 12, 14}, mirrors: true},
		{v: Version{3, 13, 7}, mirrors: true, forgets: true, refills: true, shrinks: true},
		{v: Version{4, 0, 5}, forgets: true, refills: true, shrinks: true},
		{v: Version{4, 2, 9}, forgets: true, refills: true, shrinks: true},
		{v: Version{4, 3, 0}, refills: true, shrinks: true, only: true},
		{v: Version{5, 0, 0}, refills: true, shrinks: true, only: true},
	} {
		for what, is := range map[string][2]bool{
			"DelaysStart":         {c.v.DelaysStart(), c.delays},
			"Mirrors":             {c.v.Mirrors(), c.mirrors},
			"ForgetsFirst":        {c.v.ForgetsFirst(), c.forgets},
			"RefillsReplicas":     {c.v.RefillsReplicas(), c.refills},
			"ShrinksQuorumQueues": {c.v.ShrinksQuorumQueues(), c.shrinks},
			"KhepriOnly":          {c.v.KhepriOnly(), c.only},
		} {
			if is[0] != is[1] {
				t.Errorf("%s of %s is %v", what, c.v, is[0])
			}
		}
	}
}
