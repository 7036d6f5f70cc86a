package entrypoint

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/rabbitconf"
)

// lookFor bounds the look at the others, so that a member is not kept from starting by a Consul
// that is slow. It takes milliseconds where Consul answers.
const lookFor = 2 * time.Second

// refuseJump is the check of versions. It changes nothing anywhere, and returns what this
// image runs, and what of the check is not known, to be said once the node starts.
func refuseJump(ctx context.Context, log *slog.Logger, cfg config.Config, env config.Environment) (image statedir.Versions, doubts []string, err error) {
	image = statedir.VersionsOfImage(os.Getenv)
	if image.Version == (rabbitconf.Version{}) {
		return image, []string{"which RabbitMQ this image has is not known from its files (RABBITMQ_VERSION)"}, nil
	}
	why, unknown := statedir.Jump(cfg, image, env.Of)
	forGood := why != ""
	look, done := context.WithTimeout(ctx, lookFor)
	defer done()
	o := formation.LookAround(look, cfg, log)
	if why == "" {
		why = o.Mix(image, statedir.Of(cfg).LastRan())
	}
	if why == "" {
		if unknown != "" {
			doubts = append(doubts, unknown)
		}
		if o.Err != nil {
			doubts = append(doubts, fmt.Sprintf("which versions the other members run: %v", o.Err))
		}
		if doubt := o.Doubt(image.Version); doubt != "" {
			doubts = append(doubts, doubt)
		}
		return image, doubts, nil
	}
	why += o.Tell()
	if cfg.AllowJump {
		log.Error("A JUMP OF VERSIONS IS LET THROUGH (--allow-version-jump, RMQ_ALLOW_VERSION_JUMP): there may be no way back, and other nodes may be taken down", "why", why)
		return image, nil, nil
	}
	err = formation.RefusedJump(why)
	if forGood { // of the others the versions may change
		err = &Refusal{Err: err}
	}
	return image, nil, err
}
