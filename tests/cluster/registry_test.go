package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// golangImage stands in for the official image: the compiler that runs this test, and the modules of the program.
const golangImage = `ARG DEBIAN
FROM ${DEBIAN}
COPY go /usr/local/go
COPY modules /modules
ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin GOTOOLCHAIN=local GOPROXY=file:///modules
`

// Where a registry answers, Docker and Compose are all that it takes: docker build compiles the program, and Compose
// builds what is not there. The registry here is Debian's, with stand-ins under the names of the official images.
func TestRegistry(t *testing.T) {
	if testing.Short() {
		t.Skip("needs containers")
	}
	long(t) // a Go and an image are made, pushed and compiled with: some minutes
	environment := compose2(t)
	parallel(t)
	d := newDemo(t, "registry")
	r := &registry{demo: d, name: d.name("registry"), address: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	t.Cleanup(r.remove)

	d.in("it holds what is official", func() {
		r.serve()
		golang := r.golang()
		for name, image := range map[string]string{
			"golang:1.26": golang, "rabbitmq:4.3-management": v43.base, "debian:bookworm-slim": "rmq-entrypoint/debian:bookworm",
			"hashicorp/consul:1.22.0": "rmq-entrypoint/consul-program:latest",
		} {
			r.push(image, name)
		}
	})
	d.in("docker build compiles the program", func() {
		build := []string{"build", "--force-rm", "-f", "../../docker/Dockerfile", "--build-arg", "GOLANG=" + r.address + "/golang:1.26", "--build-arg", "BASE=" + r.address + "/rabbitmq:4.3-management"}
		r.build(r.image("program"), append(build, "--target", "program", "../..")...)
		r.build(r.image("node"), append(build, "../..")...)
		if out := d.docker("run", "--rm", "--label", label, r.image("node"), "version"); !strings.HasPrefix(out, "rmq-entrypoint ") {
			d.Errorf("its version is %q", out)
		}
	})
	d.in("Compose builds and starts what two nodes need", func() {
		d.env = append(d.env, environment[len(environment)-1], "REGISTRY="+r.address+"/")
		for variable, of := range map[string]string{"RMQ_ENTRYPOINT_IMAGE": "compose", "CONSUL_IMAGE": "consul", "DNSMASQ_IMAGE": "dnsmasq"} {
			r.images = append(r.images, r.image(of))
			d.env = append(d.env, variable+"="+r.image(of))
		}
		d.compose("up", "-d", "rabbitmq1", "rabbitmq2")
		want := []string{"rabbit@rabbitmq1", "rabbit@rabbitmq2"}
		d.eventually(240*time.Second, "two nodes are one cluster", func() error {
			all, err := statuses(d.node("rabbitmq1"), d.node("rabbitmq2"))
			for name, s := range all {
				if !slices.Equal(s.running, want) {
					err = fmt.Errorf("%s sees %v", name, s.running)
				}
			}
			return err
		})
		for _, service := range []string{"consul", "dnsmasq"} {
			if image := d.docker("inspect", "-f", "{{.Config.Image}}", d.node(service).container); image != r.image(service) {
				d.Errorf("%s runs from %s", service, image)
			}
		}
	})
}

// A registry runs in a container, and what is built from it is removed in the end.
type registry struct {
	*demo
	name    string
	address string
	images  []string // to be removed
}

func (r *registry) image(of string) string { return label + "-" + r.id + ":" + of }

func (r *registry) remove() {
	_, _ = try("rm", "-fv", r.name)
	r.demo.remove() // whose containers use the images
	_, _ = try(append([]string{"rmi"}, r.images...)...)
}

// build runs docker build, which may take as long as Compose.
func (r *registry) build(image string, argv ...string) {
	r.Helper()
	r.images = append(r.images, image)
	if out, err := r.run("tests/cluster", "docker", append(argv, "-t", image)...); err != nil {
		r.Fatalf("docker %v: %v\n%s", argv, err, out)
	}
}

func (r *registry) serve() {
	r.Helper()
	r.build(r.image("registry"), "build", "--force-rm", "--build-arg", "DEBIAN=rmq-entrypoint/debian:bookworm", "../../docker/registry")
	r.docker("run", "-d", "--name", r.name, "--label", label, "-p", r.address+":5000", r.image("registry"))
}

// golang makes the stand-in for golang, and returns its name.
func (r *registry) golang() string {
	r.Helper()
	dir := r.TempDir()
	goenv := func(name string) string {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			r.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	// What a build takes from here, it will ask its proxy for.
	fetch := exec.Command("go", "build", "-modcacherw", "-o", os.DevNull, "./cmd/rmq-entrypoint")
	fetch.Dir = "../.."
	fetch.Env = append(os.Environ(), "GOMODCACHE="+filepath.Join(dir, "cache"), "GOPROXY=file://"+goenv("GOMODCACHE")+"/cache/download,"+goenv("GOPROXY"))
	if out, err := fetch.CombinedOutput(); err != nil {
		r.Fatalf("%v: %v\n%s", fetch, err, out)
	}
	context := filepath.Join(dir, "context")
	if err := errors.Join(
		os.Mkdir(context, 0o755),
		os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(golangImage), 0o644),
		os.Symlink(goenv("GOROOT"), filepath.Join(context, "go")),
		os.Rename(filepath.Join(dir, "cache", "cache", "download"), filepath.Join(context, "modules")),
	); err != nil {
		r.Fatal(err)
	}
	// Without what only those who build Go itself need: all of it is compressed on its way into the registry.
	image := r.image("golang")
	r.images = append(r.images, image)
	out, err := r.run("tests/cluster", "bash", "-c", "set -o pipefail; tar -C "+context+" --exclude=./go/{api,doc,test,src/cmd} --exclude=testdata -ch . |"+
		" docker build --force-rm --build-arg DEBIAN=rmq-entrypoint/debian:bookworm -t "+image+" -")
	if err != nil {
		r.Fatalf("build a stand-in for golang: %v\n%s", err, out)
	}
	return image
}

// push puts the image into the registry under that name, and leaves it nowhere else.
func (r *registry) push(image, name string) {
	r.Helper()
	name = r.address + "/" + name
	r.docker("tag", image, name)
	r.images = append(r.images, name)
	r.eventually(5*time.Minute, "the registry takes "+name, func() error {
		_, err := r.run("tests/cluster", "docker", "push", name)
		return err
	})
	r.docker("rmi", name)
}
