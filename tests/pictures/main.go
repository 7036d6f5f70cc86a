// Command pictures opens the pages of a running example cluster (scripts/up) in a
// headless Chromium, fails unless each shows what it should, and keeps a picture of
// each for the README. It is a module of its own, so that what it takes to drive a
// browser is no dependency of the program's.
//
//	scripts/up && go run -C tests/pictures .
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/chromedp/chromedp"
)

// A page is opened, and must show every one of the words, and none of those that
// tell of trouble, within half a minute.
type page struct {
	name, url string
	enter     []chromedp.Action[chromedp.Void] // after the page was opened
	shows     []string
	height    int64 // of the picture, pixels
}

var trouble = []string{"Node not running", "checks failing", "Login failed"}

func main() {
	log.SetFlags(0)
	out := flag.String("out", "../../docs", "directory for the pictures")
	management := flag.String("management", "http://127.0.0.1:15670", "management UI, through the balancer")
	consul := flag.String("consul", "http://127.0.0.1:8500", "Consul's UI")
	balancer := flag.String("balancer", "http://127.0.0.1:8404", "the balancer's statistics")
	cluster := flag.String("cluster", "http://127.0.0.1:15689", "the page of the whole cluster, through the balancer")
	env := flag.String("env", "../../compose/.env", "file with the user who logs in to the management UI")
	flag.Parse()
	name, password, err := login(*env)
	if err != nil {
		log.Fatalf("pictures: %v: scripts/up makes it", err)
	}

	nodes, instances := []string{}, []string{}
	for _, host := range []string{"rabbitmq1", "rabbitmq2", "rabbitmq3"} {
		nodes, instances = append(nodes, "rabbit@"+host), append(instances, "rabbitmq-rabbit-"+host)
	}
	enter := []chromedp.Action[chromedp.Void]{
		chromedp.SendKeys(`input[name=username]`, name),
		chromedp.SendKeys(`input[name=password]`, password),
		chromedp.Click(`input[type=submit]`),
	}
	pages := []page{
		{"cluster", *cluster + "/", nil, append(nodes, "one cluster", "serves"), 560},
		{"management", *management + "/", enter, append(nodes, "Overview", "Totals"), 900},
		{"queues", *management + "/#/queues", nil, []string{"my-queue", "running"}, 500},
		{"consul", *consul + "/ui/dc1/services/rabbitmq/instances", nil, append(instances, "All service checks passing"), 900},
		{"balancer", *balancer + "/", nil, []string{"amqp", "management", "UP", "rmq3"}, 900},
	}
	if err := visit(*out, pages); err != nil {
		log.Fatalf("pictures: %v", err)
	}
}

// login returns the user and the password that are in the file of the example's settings.
func login(file string) (name, password string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(text)) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "RABBITMQ_DEFAULT_USER":
			name = value
		case "RABBITMQ_DEFAULT_PASS":
			password = value
		}
	}
	return name, password, nil
}

func visit(out string, pages []page) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1280, 900))
	browser, stop := chromedp.NewExecAllocator(context.Background(), options...)
	defer stop()
	tab, closeTab := chromedp.NewContext(browser)
	defer closeTab()
	// The first action starts the browser, which lives as long as its context.
	if _, err := chromedp.Run(tab, chromedp.Navigate("about:blank")); err != nil {
		return fmt.Errorf("start Chromium: %w", err)
	}
	for _, p := range pages {
		picture, err := p.visit(tab)
		file := filepath.Join(out, p.name+".png")
		if werr := os.WriteFile(file, picture, 0o644); werr != nil {
			return werr
		}
		if err != nil {
			return fmt.Errorf("%s: %w (see %s)", p.url, err, file)
		}
		log.Printf("%s shows %s", file, strings.Join(p.shows, ", "))
	}
	return nil
}

// visit returns the picture also of a page that does not show what it should.
func (p page) visit(tab context.Context) (picture []byte, err error) {
	ctx, cancel := context.WithTimeout(tab, 30*time.Second)
	defer cancel()
	open := append([]chromedp.Action[chromedp.Void]{chromedp.EmulateViewport(1280, p.height), chromedp.Navigate(p.url)}, p.enter...)
	for _, action := range open {
		if err == nil {
			_, err = chromedp.Run(ctx, action)
		}
	}
	for err == nil {
		text, terr := chromedp.Run(ctx, chromedp.Text("body"))
		missing := p.missing(text)
		if missing == "" || terr != nil {
			err = terr
			break
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("it does not show %q", missing)
		case <-time.After(500 * time.Millisecond):
		}
	}
	late, cancel := context.WithTimeout(tab, 10*time.Second)
	defer cancel()
	picture, serr := chromedp.Run(late, chromedp.CaptureScreenshot())
	return picture, errors.Join(err, serr)
}

func (p page) missing(text string) string {
	for _, word := range p.shows {
		if !strings.Contains(text, word) {
			return word
		}
	}
	for _, word := range trouble {
		if strings.Contains(text, word) {
			return "nothing but health, with " + word
		}
	}
	return ""
}
