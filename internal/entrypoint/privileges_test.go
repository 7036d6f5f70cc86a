package entrypoint

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/expect"
)

const nobody = 65534

var nobodys = config.User{UID: nobody, GID: nobody}

// users makes a directory in which a test may have several, and needs root.
func users(t *testing.T) (in func(name string) string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("files of several users need root")
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	expect.Must(t, err)
	return func(name string) string { return filepath.Join(root, name) }
}

func owner(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Lstat(path)
	expect.Must(t, err)
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// What lies on the volume is given to the server's user, whoever it was, and nothing that is outside of it, whatever
// leads there.
func TestGive(t *testing.T) {
	t.Parallel()
	in := users(t)
	for _, dir := range []string{"home/mnesia/rabbit@a/deep", "outside/dir", "his"} {
		expect.Must(t, os.MkdirAll(in(dir), 0o755))
	}
	inside, outside := []string{"home/.erlang.cookie", "home/mnesia/rabbit@a/deep/file"}, []string{"outside/shadow", "outside/dir/file"}
	for _, file := range append(slices.Clone(inside), outside...) {
		expect.Must(t, os.WriteFile(in(file), nil, 0o600))
	}
	expect.Must(t, syscall.Mkfifo(in("home/pipe"), 0o600))
	expect.Must(t, syscall.Mknod(in("home/null"), syscall.S_IFCHR|0o666, 1<<8|3))
	expect.Must(t, os.Symlink(in("outside"), in("home/mnesia/out")))
	expect.Must(t, os.Symlink(in("outside/shadow"), in("home/shadow")))
	expect.Must(t, os.Chown(in("home/mnesia/rabbit@a"), 100, 101)) // another image's
	expect.Must(t, os.Chown(in("his"), nobody, nobody))
	expect.Must(t, os.Symlink(in("outside"), in("his/mnesia")))
	g := giverTo(nobodys, slog.New(slog.DiscardHandler))

	expect.Must(t, g.tree(in("home")))
	for _, his := range append(inside, "home", "home/mnesia", "home/mnesia/rabbit@a", "home/mnesia/rabbit@a/deep", "home/mnesia/out", "home/shadow", "home/pipe") {
		if uid := owner(t, in(his)); uid != nobody {
			t.Errorf("%s belongs to uid %d", his, uid)
		}
	}
	if uid := owner(t, in("home/null")); uid != 0 {
		t.Errorf("a device was given to uid %d", uid)
	}
	// Behind a link in a directory of his, nothing is given and nothing is made.
	for _, path := range []string{"his/mnesia", "his/mnesia/dir", "his/mnesia/new/more", "home/mnesia/out/dir"} {
		expect.Must(t, g.tree(in(path)))
		expect.Must(t, g.alone(in(path)))
	}
	for _, roots := range append(outside, "outside", "outside/dir") {
		if uid := owner(t, in(roots)); uid != 0 {
			t.Errorf("%s was given to uid %d", roots, uid)
		}
	}
	if entries, err := os.ReadDir(in("outside")); err != nil || len(entries) != 2 {
		t.Errorf("behind the link there are %v, %v", entries, err)
	}

	// What is missing where root alone can make it is made for him, and one directory of it; his own he makes himself.
	expect.Must(t, g.tree(in("new/data")))
	expect.Must(t, g.tree(in("his/new")))
	if uid := owner(t, in("new")); uid != nobody {
		t.Errorf("the new directory belongs to uid %d", uid)
	}
	for _, not := range []string{"new/data", "his/new"} {
		if _, err := os.Lstat(in(not)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("root made %s (%v)", not, err)
		}
	}
	// A directory alone: what lies in it stays whose it is.
	expect.Must(t, os.Symlink("outside", in("link")))
	expect.Must(t, g.alone(in("link")))
	if owner(t, in("outside")) != nobody || owner(t, in("outside/shadow")) != 0 {
		t.Error("of a directory by a link of root's, the directory alone was to be given")
	}
}

// Whoever it is that the directory above the data belongs to leads root nowhere. What is there is given, what is missing
// is made, and a link is named that root does not follow.
func TestGiveBelowOthers(t *testing.T) {
	t.Parallel()
	in := users(t)
	for _, dir := range []string{"outside", "srv/data", "srv/taken", "staff", "tmp"} {
		expect.Must(t, os.MkdirAll(in(dir), 0o755))
	}
	expect.Must(t, os.WriteFile(in("outside/shadow"), nil, 0o600))
	expect.Must(t, os.WriteFile(in("srv/data/file"), nil, 0o600))
	expect.Must(t, os.Chown(in("srv/taken"), nobody, nobody))
	expect.Must(t, os.Chmod(in("staff"), 0o775))
	expect.Must(t, os.Chmod(in("tmp"), 0o777|fs.ModeSticky))
	for _, link := range []string{"srv/link", "staff/link", "tmp/link"} {
		expect.Must(t, os.Symlink(in("outside"), in(link)))
		expect.Must(t, os.Lchown(in(link), 1234, 1234))
	}
	expect.Must(t, os.Symlink(in("srv/taken"), in("srv/his")))
	expect.Must(t, os.Chown(in("srv"), 1234, 1234))
	expect.Must(t, os.Chown(in("staff"), 0, 1234))
	var said bytes.Buffer
	g := giverTo(nobodys, slog.New(slog.NewTextHandler(&said, nil)))
	for path, says := range map[string][]string{
		"srv/link": {in("srv/link"), in("srv") + " can be changed by uid 1234", "chown root:root " + in("srv")}, "srv/link/deep": {in("srv/link")},
		"staff/link": {in("staff") + " can be changed by its group 1234", "0775"}, "tmp/link": {in("tmp/link"), "everybody"},
		"srv/his": nil, "srv/data": nil, "srv/new/deep": nil, "tmp/new": nil,
	} {
		said.Reset()
		expect.Must(t, g.tree(in(path)))
		if expect.Says(t, said.String(), says...); says == nil && said.Len() > 0 {
			t.Errorf("%s: %s", path, said.String())
		}
	}
	for path, want := range map[string]int{"outside": 0, "outside/shadow": 0, "srv": 1234, "srv/data": nobody, "srv/data/file": nobody, "srv/new": nobody} {
		if uid := owner(t, in(path)); uid != want {
			t.Errorf("%s belongs to uid %d, want %d", path, uid, want)
		}
	}
	for _, not := range []string{"srv/new/deep", "outside/deep", "tmp/new"} {
		if _, err := os.Lstat(in(not)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("root made %s (%v)", not, err)
		}
	}
}

// Where the server's user is in root's group, as in images for any uid, whose directories that group may change, he leads
// root nowhere by these. By such a directory nobody else is led.
func TestGiveToGroupRoot(t *testing.T) {
	t.Parallel()
	in := users(t)
	for _, dir := range []string{"outside", "var/data", "var/sticky"} {
		expect.Must(t, os.MkdirAll(in(dir), 0o755))
	}
	for dir, mode := range map[string]fs.FileMode{"var": 0o775, "var/sticky": 0o775 | fs.ModeSticky} { // root:root, g=u
		expect.Must(t, os.Symlink(in("outside"), in(dir+"/state")))
		expect.Must(t, os.Chmod(in(dir), mode))
	}
	expect.Must(t, os.Lchown(in("var/sticky/state"), nobody, 0))
	for _, his := range []config.User{{UID: nobody, GID: 0}, {UID: nobody, GID: nobody, Groups: []int{4, 0}}} {
		g := giverTo(his, slog.New(slog.DiscardHandler))
		for _, path := range []string{"var/state", "var/state/new", "var/sticky/state", "var/data", "var/new/deep"} {
			expect.Must(t, g.tree(in(path)))
		}
		if owner(t, in("outside")) != 0 || owner(t, in("var/data")) != nobody {
			t.Errorf("%+v: behind the link is what belongs to uid %d, and the data to uid %d", his, owner(t, in("outside")), owner(t, in("var/data")))
		}
	}
	for _, not := range []string{"outside/new", "var/new"} { // the second is his to make
		if _, err := os.Lstat(in(not)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("root made %s (%v)", not, err)
		}
	}
	expect.Must(t, giverTo(nobodys, slog.New(slog.DiscardHandler)).tree(in("var/state")))
	if uid := owner(t, in("outside")); uid != nobody {
		t.Errorf("behind a link of root's there is what belongs to uid %d", uid)
	}
}

// What has another name may be a file outside of the volume: it is left alone and named, unless it is the server's
// user's already.
func TestGiveLinked(t *testing.T) {
	t.Parallel()
	in := users(t)
	for _, dir := range []string{"outside", "home/deep"} {
		expect.Must(t, os.MkdirAll(in(dir), 0o755))
	}
	for _, file := range []string{"outside/shadow", "outside/his", "home/twice", "home/one"} {
		expect.Must(t, os.WriteFile(in(file), nil, 0o600))
	}
	expect.Must(t, syscall.Mkfifo(in("outside/pipe"), 0o600))
	expect.Must(t, os.Symlink("shadow", in("outside/link")))
	expect.Must(t, os.Chown(in("outside/his"), nobody, nobody))
	for from, to := range map[string]string{"outside/shadow": "home/deep/a", "outside/his": "home/his", "outside/pipe": "home/pipe", "outside/link": "home/link", "home/twice": "home/deep/twice"} {
		expect.Must(t, os.Link(in(from), in(to)))
	}
	var said bytes.Buffer
	g := giverTo(nobodys, slog.New(slog.NewTextHandler(&said, nil)))
	expect.Must(t, g.tree(in("home")))
	expect.Must(t, g.tree(in("home/deep"))) // nothing is told twice
	g.tellLinked()
	for path, want := range map[string]int{"outside/shadow": 0, "outside/pipe": 0, "outside/link": 0, "home/twice": 0, "home/his": nobody, "home/one": nobody, "home/deep": nobody} {
		if uid := owner(t, in(path)); uid != want {
			t.Errorf("%s belongs to uid %d, want %d", path, uid, want)
		}
	}
	expect.Says(t, said.String(), "files=5", in("home/deep/a"), "hard link", "cp -p", fmt.Sprintf("uid=%d", nobody))
	said.Reset()
	if giverTo(nobodys, g.log).tellLinked(); said.Len() > 0 {
		t.Error(said.String())
	}
}

// A second process on the volume swaps a directory for a link, and renames and removes what root is about to give: what
// stays on the volume is given all the same, and nothing outside ever.
func TestGiveWhileOthersWork(t *testing.T) {
	t.Parallel()
	in := users(t)
	expect.Must(t, os.MkdirAll(in("outside"), 0o755))
	for i := range 200 {
		expect.Must(t, os.MkdirAll(in(fmt.Sprintf("home/dir/%d", i)), 0o755))
		expect.Must(t, os.WriteFile(in(fmt.Sprintf("outside/%d", i)), nil, 0o600))
	}
	expect.Must(t, os.MkdirAll(in("home/zzz/last"), 0o755))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(in("home/dir"), in("home/moved"))
			_ = os.Symlink(in("outside"), in("home/dir"))
			time.Sleep(50 * time.Microsecond)
			_ = os.Remove(in("home/dir"))
			_ = os.Rename(in("home/moved"), in("home/dir"))
			time.Sleep(50 * time.Microsecond)
		}
	}()
	defer func() { close(stop); <-done }()
	g := giverTo(nobodys, slog.New(slog.DiscardHandler))
	for range 60 {
		expect.Must(t, os.Chown(in("home/zzz/last"), 0, 0))
		if err := g.tree(in("home")); err != nil {
			t.Fatal(err)
		}
		if uid := owner(t, in("home/zzz/last")); uid != nobody {
			t.Fatalf("the walk ended before the last one, which belongs to uid %d", uid)
		}
		for i := range 200 { // what is in the moving directory is to be given again
			_ = os.Chown(in(fmt.Sprintf("home/dir/%d", i)), 0, 0)
		}
		for i := range 200 { // the line above is as easily led astray
			if uid := owner(t, in(fmt.Sprintf("outside/%d", i))); uid == nobody {
				t.Fatalf("outside/%d was given away", i)
			}
		}
	}
}

// Our own output is given where a health check has to open it again, and never what is the host's.
func TestGiveOutput(t *testing.T) {
	t.Parallel()
	in := users(t)
	expect.Must(t, syscall.Mkfifo(in("pipe"), 0o600))
	expect.Must(t, syscall.Mknod(in("null"), syscall.S_IFCHR|0o666, 1<<8|3))
	expect.Must(t, os.WriteFile(in("file"), nil, 0o600))
	for name, want := range map[string]int{"pipe": nobody, "null": 0, "file": 0} {
		f, err := os.OpenFile(in(name), os.O_RDWR, 0)
		expect.Must(t, err)
		giverTo(nobodys, slog.New(slog.DiscardHandler)).output(f)
		_ = f.Close()
		if uid := owner(t, in(name)); uid != want {
			t.Errorf("the %s belongs to uid %d, want %d", name, uid, want)
		}
	}
}

// As in a container with the rights to step down and no more, root cannot look into what is closed to it. What is the
// server's user's already is left alone; what is not is an error that names the way out.
func TestGiveWithoutRights(t *testing.T) {
	const child = "RMQ_TEST_GIVE"
	if dir := os.Getenv(child); dir != "" {
		fmt.Printf("%v\n", giverTo(nobodys, slog.New(slog.DiscardHandler)).tree(dir))
		os.Exit(0)
	}
	t.Parallel()
	in := users(t)
	for _, dir := range []string{"home/state", "home/closed", "foreign/closed", "theirs/data", "theirs/other"} {
		expect.Must(t, os.MkdirAll(in(dir), 0o755))
	}
	expect.Must(t, os.WriteFile(in("home/roots"), nil, 0o600))
	expect.Must(t, os.Chown(in("home/state"), nobody, nobody))
	expect.Must(t, os.Chmod(in("home/state"), 0o700))
	expect.Must(t, os.Chmod(in("home/closed"), 0o700)) // root's: it may look
	expect.Must(t, os.Chown(in("foreign/closed"), 100, 101))
	expect.Must(t, os.Chmod(in("foreign/closed"), 0o700))
	expect.Must(t, os.Chown(in("theirs"), 1234, 1234))
	expect.Must(t, os.Chmod(in("theirs"), 0o711)) // root, too, may go through, and not look for links
	expect.Must(t, os.Chown(in("theirs/data"), nobody, nobody))
	give := func(dir string) string {
		cmd := exec.Command("setpriv", "--bounding-set=-all,+chown,+setuid,+setgid", "--inh-caps=-all", os.Args[0], "-test.run=^TestGiveWithoutRights$")
		cmd.Env = []string{child + "=" + in(dir), "GOCOVERDIR=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(bytes.TrimSpace(out))
	}
	if got := give("home"); got != "<nil>" || owner(t, in("home/closed")) != nobody || owner(t, in("home/roots")) != nobody || owner(t, in("home")) != nobody {
		t.Errorf("%s", got)
	}
	if got := give("theirs/data"); got != "<nil>" {
		t.Errorf("%s", got)
	}
	expect.Says(t, give("theirs/other"), in("theirs")+": permission denied")
	if got := give("foreign"); !strings.Contains(got, in("foreign/closed")) || !strings.Contains(got, "permission denied") {
		t.Errorf("%s", got)
	}
}

// A directory of rabbitmq's, open to all in the image, is closed to the others, and to nobody who needs it.
func TestCloseToOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for was, want := range map[fs.FileMode]fs.FileMode{0o777 | fs.ModeSticky: 0o775 | fs.ModeSticky, 0o755: 0o755, 0o777 | fs.ModeSetgid: 0o775 | fs.ModeSetgid} {
		expect.Must(t, os.Chmod(dir, was))
		closeToOthers(dir)
		info, err := os.Stat(dir)
		expect.Must(t, err)
		if got := info.Mode() &^ fs.ModeDir; got != want {
			t.Errorf("%v became %v, want %v", was, got, want)
		}
	}
	closeToOthers("/nowhere")
	if os.Geteuid() == 0 { // one that is another's is his to open
		expect.Must(t, os.Chmod(dir, 0o777))
		expect.Must(t, os.Chown(dir, nobody, nobody))
		closeToOthers(dir)
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o777 {
			t.Errorf("another's became %v, %v", info.Mode(), err)
		}
	}
}

// A start that did not come to step down does nothing on the volume, as root would behind a link of rabbitmq's.
func TestRootTouchesNothing(t *testing.T) {
	in := users(t)
	expect.Must(t, os.MkdirAll(in("state"), 0o755))
	expect.Must(t, os.WriteFile(in("state/refused"), []byte("{}"), 0o600))
	t.Setenv("RABBITMQ_VM_MEMORY_HIGH_WATERMARK", "1") // refused first of all
	if err := Start(t.Context(), config.Logger(config.Config{}), config.Config{StateDir: in("state")}); err == nil || !strings.Contains(err.Error(), "no longer supported") {
		t.Fatal(err)
	}
	if _, err := os.Stat(in("state/refused")); err != nil {
		t.Error(err)
	}
}

// A cookie that is mounted read-only and not rabbitmq's cannot be given to it: the start says whose
// it must be, and what else there is. One that is rabbitmq's is left alone. On real mounts, which
// need root.
func TestGiveReadOnly(t *testing.T) {
	const child = "RMQ_TEST_READ_ONLY"
	if root := os.Getenv(child); root != "" {
		cookie, home := filepath.Join(root, "secret"), filepath.Join(root, "home")
		file := filepath.Join(home, ".erlang.cookie")
		if err := syscall.Mount(cookie, file, "", syscall.MS_BIND, ""); errors.Is(err, syscall.EPERM) {
			t.Skip("nothing can be mounted here")
		} else {
			expect.Must(t, err)
		}
		expect.Must(t, syscall.Mount("", file, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
		cfg := config.Config{Home: home, Data: filepath.Join(home, "mnesia/rabbit@a"), StateDir: filepath.Join(home, "mnesia/rabbit@a-entrypoint")}
		err := becomeUser(cfg, giverTo(nobodys, slog.New(slog.DiscardHandler)))
		if err == nil || !errors.Is(err, syscall.EROFS) {
			t.Fatalf("a cookie of root's: %v", err)
		}
		expect.Says(t, err.Error(), ".erlang.cookie", "read-only file system", fmt.Sprintf("must belong to uid %d", nobody), "RABBITMQ_ERLANG_COOKIE_FILE")
		if strings.Contains(err.Error(), "CAP_CHOWN") {
			t.Errorf("it asks for a right that does not help: %v", err)
		}
		expect.Must(t, os.Chown(cookie, nobody, nobody))
		if err := (giverTo(nobodys, slog.New(slog.DiscardHandler))).tree(home); err != nil {
			t.Errorf("a cookie of rabbitmq's: %v", err)
		}
		return
	}
	in := users(t)
	expect.Must(t, os.MkdirAll(in("home"), 0o755))
	for _, file := range []string{"secret", "home/.erlang.cookie"} {
		expect.Must(t, os.WriteFile(in(file), []byte("crumbs-of-a-cookie-for-all"), 0o400))
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", os.Args[0], "-test.run=^TestGiveReadOnly$", "-test.v")
	cmd.Env = append(os.Environ(), child+"="+in(""))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	} else if strings.Contains(string(out), "SKIP") {
		t.Skip(string(out))
	}
	// Where it is a right that is missing, that is said.
	expect.Says(t, notGiven(&fs.PathError{Op: "chown", Path: "x", Err: syscall.EPERM}, 999).Error(), "CAP_CHOWN", "uid 999")
}
