package walk

import (
	"maps"
	"math"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// number is what the environment says, or what is usual.
func number(t *testing.T, name string, usual uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, text, err)
	}
	return n
}

// tally is what many worlds came to.
type tally struct {
	mu       sync.Mutex
	steps    atomic.Uint64
	worlds   int
	operator map[string]int // why only a person could go on, without names
	excused  map[string]int
	did      map[string]int
}

func (y *tally) add(v Verdict) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.worlds++
	for what, n := range v.Did {
		y.did[what] += n
	}
	switch {
	case v.Excused != "":
		y.excused[v.Excused]++
	case v.Operator != "":
		y.operator[v.Kind()]++
	}
}

// TestWalk walks worlds, seed by seed, until so many steps were made: RMQ_WALK_STEPS, or
// 100,000. RMQ_WALK_SEED walks one alone and tells its story.
func TestWalk(t *testing.T) {
	if seed := number(t, "RMQ_WALK_SEED", 0); seed != 0 {
		w := New(seed, Product(), true)
		v := w.Walk()
		t.Logf("%s\n%+v", w.Story(), v)
		if v.Failed() {
			t.Errorf("seed %d: broken: %q; stuck: %q", seed, v.Broken, v.Stuck)
		}
		return
	}
	most := number(t, "RMQ_WALK_STEPS", 100_000)
	y := tally{operator: map[string]int{}, excused: map[string]int{}, did: map[string]int{}}
	began := time.Now()
	var seeds atomic.Uint64
	t.Run("worlds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for y.steps.Load() < most && !t.Failed() {
					y.walk(t, seeds.Add(1))
				}
			})
		}
	})
	t.Logf("%d steps of %d worlds in %s", y.steps.Load(), y.worlds, time.Since(began).Round(time.Millisecond))
	t.Logf("what they saw: %v", y.did)
	t.Logf("where only a person can go on: %v", y.operator)
	t.Logf("what nobody can know, or a person did: %v", y.excused)
	y.judge(t)
}

// walk walks one world.
func (y *tally) walk(t *testing.T, seed uint64) {
	v := New(seed, Product(), false).Walk()
	y.steps.Add(uint64(v.Steps))
	y.add(v)
	if !v.Failed() {
		return
	}
	w := New(seed, Product(), true)
	w.Walk()
	t.Errorf("seed %d: broken: %q; stuck: %q. RMQ_WALK_SEED=%d tells it alone:\n%s", seed, v.Broken, v.Stuck, seed, w.Story())
}

// operatorShare is how many worlds end where only a person can go on: measured, 1,452 of
// the seeds 1 to 24,810.
const operatorShare = 0.0585

func (y *tally) judge(t *testing.T) {
	asked := 0
	for _, n := range y.operator {
		asked += n
	}
	// Below some hundred, chance alone is larger than what a bug would make of it.
	if few := operatorShare * float64(y.worlds); float64(asked) > max(1.3*few, few+4*math.Sqrt(few)) {
		t.Errorf("%d of %d worlds ended with a person, %.0f are usual: too many to prove progress", asked, y.worlds, few)
	}
	if y.worlds < 3000 {
		return
	}
	for _, what := range Sights {
		if y.did[what] == 0 {
			t.Errorf("in %d worlds this was never seen: %s", y.worlds, what)
		}
	}
}

// A world walks the same way each time.
func TestWorldsAreMadeOfTheirSeed(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		a, b := New(seed, Product(), true), New(seed, Product(), true)
		if va, vb := a.Walk(), b.Walk(); !reflect.DeepEqual(va, vb) {
			t.Errorf("seed %d: %+v, and then %+v", seed, va, vb)
		}
		if a.Story() != b.Story() {
			t.Errorf("seed %d: its story is told otherwise the second time", seed)
		}
	}
}

// A walk must find a bug: these are put in on purpose.
func TestWalkFindsBugs(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(mutants)) {
		m := mutants[name]
		t.Run(name, func(t *testing.T) {
			if m.within > 500_000 && os.Getenv("RMQ_WALK_STEPS") == "" {
				t.Skip("found late: RMQ_WALK_STEPS is not set")
			}
			t.Parallel()
			steps := 0
			for seed := uint64(1); steps < m.within; seed++ {
				v := New(seed, m.minds(), false).Walk()
				if steps += v.Steps; !v.Failed() {
					continue
				}
				found := v.Broken + v.Stuck
				if !slices.ContainsFunc(strings.Split(m.found, "|"), func(want string) bool { return strings.Contains(found, want) }) {
					t.Errorf("seed %d: found %q, want %q", seed, found, m.found)
				}
				t.Logf("seed %d, after %d steps: %s", seed, steps, found)
				return
			}
			t.Errorf("%d steps did not show it: the walk proves nothing", steps)
		})
	}
}
