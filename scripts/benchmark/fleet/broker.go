package fleet

import (
	"context"
	"fmt"
	"strings"
)

// broker is the command line of a RabbitMQ that there is not: a member that runs, in a cluster that is whole and idle. It
// answers at once. What it is told to do it says that it did, which for an idle cluster is nothing.
func broker(number int) func(ctx context.Context, argv ...string) (string, error) {
	all := strings.Join(members(number), ",")
	view := fmt.Sprintf("view|%s|%s|%s||true|%s|\npauses|true|\n", clusterID(number-number%ClusterSize), all, all, all)
	return func(_ context.Context, argv ...string) (string, error) {
		if len(argv) < 6 || argv[0] != "rabbitmqctl" || argv[4] != "eval" {
			return "", fmt.Errorf("nothing stands in for %q", argv)
		}
		for says, answer := range map[string]string{"view|": view, "led|": "led|true|", "queues|": "queues|0|"} {
			if strings.Contains(argv[5], says) {
				return answer, nil
			}
		}
		return "ok", nil
	}
}
