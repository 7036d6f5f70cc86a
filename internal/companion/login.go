package companion

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/rabbitconf"
)

// login is where and as whom the companion logs in at this node. Others may replace the files
// that say so: RMQ_AMQP_URL_FILE, and RabbitMQ's own with the default user. They are read again
// when RabbitMQ is ready, and when a login was refused.
type login struct {
	log     *slog.Logger
	version rabbitconf.Version
	checker *healthcheck.Checker

	mu      sync.Mutex
	cfg     config.Config
	server  config.Environment  // RabbitMQ's, since its start
	getenv  func(string) string // the environment, with what RabbitMQ's files say
	urls    []string
	trouble string // that the log was told of
}

// MayLogIn refuses a health check that cannot begin, as without the certificates that its URL
// names: a companion would find that out when the cluster has been claimed.
func MayLogIn(cfg config.Config, server config.Environment, user rabbitconf.User) error {
	_, checker, err := checkerOf(cfg, config.Defaults(config.LoginEnv(server), user), nil)
	if err == nil {
		checker.Close()
	}
	return err
}

// checkerOf makes the check that goes where these settings and the environment say. It connects
// nowhere yet.
func checkerOf(cfg config.Config, getenv func(string) string, log *slog.Logger) (urls []string, checker *healthcheck.Checker, err error) {
	if urls, err = config.AMQPURLs(cfg, getenv); err != nil {
		return nil, nil, err
	}
	checker, err = healthcheck.New(healthcheck.Options{URLs: urls, Timeout: min(3*time.Second, cfg.TTL/5), Log: log})
	if err != nil {
		return nil, nil, fmt.Errorf("RMQ_AMQP_URL (--amqp-url): %w", err)
	}
	return urls, checker, nil
}

// begin reads the files and makes the checker.
func (l *login) begin(ctx context.Context, cfg config.Config) (err error) {
	env := config.EnvironmentOf(rabbitmq.ServerEnv(os.Environ(), "RABBITMQ_NODENAME="+cfg.Node, "HOME="+cfg.Home))
	if l.server, _, err = config.EnvConf(ctx, env); err != nil { // it could be read when RabbitMQ started
		l.complain("the check goes without what rabbitmq-env.conf says", err)
		l.server = env
	}
	l.server = l.server.Identified(env)
	l.read()
	l.cfg = cfg
	if l.urls, l.checker, err = checkerOf(cfg, l.getenv, l.log); err != nil {
		return err
	}
	return l.checker.Move(l.urls, listed(cfg))
}

// read reads RabbitMQ's files, which are not in the runtime file: that holds no secrets.
func (l *login) read() {
	user, err := config.UserFiles(l.server.Of, l.version)
	switch {
	case err == nil:
		l.getenv = config.Defaults(config.LoginEnv(l.server), user)
	case l.getenv == nil: // written since the start
		l.complain("cannot read RabbitMQ's files: the check goes by the environment alone", err)
		l.getenv = config.LoginEnv(l.server)
	default: // half written, perhaps
		l.complain("cannot read RabbitMQ's files: the check keeps the login it had", err)
	}
}

// complain tells the log what has changed.
func (l *login) complain(what string, err error) {
	if text := what + err.Error(); text != l.trouble {
		l.trouble = text
		l.log.Warn(what, "err", err)
	}
}

// user is who RabbitMQ makes on a blank volume.
func (l *login) user() *url.Userinfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	return config.DefaultUser(l.getenv)
}

// move has the check go where these settings say.
func (l *login) move(cfg config.Config) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg = cfg
	_, err := l.moved()
	return err
}

// ready is move when RabbitMQ has begun to serve.
func (l *login) ready(cfg config.Config) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg = cfg
	l.read()
	l.checker.Ready()
	_, err := l.moved()
	return err
}

// moved takes over what the settings and the files say, and reports whether that was another way
// in.
func (l *login) moved() (bool, error) {
	urls, err := config.AMQPURLs(l.cfg, l.getenv)
	if err == nil {
		err = l.checker.Move(urls, listed(l.cfg))
	}
	if err != nil {
		return false, err
	}
	other := !slices.Equal(urls, l.urls)
	l.urls = urls
	return other, nil
}

// check asks the node, with a login or only whether it listens. A login that is refused is tried
// once more, at once, if the files say another one by now.
func (l *login) check(ctx context.Context, logIn bool) healthcheck.Result {
	if !logIn {
		return l.checker.Listens(ctx)
	}
	r := l.checker.Check(ctx)
	if !r.Refused || !l.changed() {
		return r
	}
	l.log.Info("the login of the health check has changed: using the new one")
	return l.checker.Check(ctx)
}

func (l *login) changed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read()
	changed, err := l.moved()
	if err != nil { // half written, perhaps
		l.complain("the login of the health check was refused, and what its file says now cannot be used", err)
	}
	return changed
}
