// The application of app.py in Go's SDK, with the same orders on stdin.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

type order struct {
	Steps int
	Secs  float64
}

func job(ctx dbos.Context, wanted order) (string, error) {
	id, err := dbos.GetWorkflowID(ctx)
	if err != nil {
		return "", err
	}
	for number := range wanted.Steps {
		_, err := dbos.RunAsStep(ctx, func(context.Context) (int, error) {
			time.Sleep(time.Duration(wanted.Secs * float64(time.Second)))
			return number, note(id, number)
		}, dbos.WithStepName("work"))
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d steps done", wanted.Steps), nil
}

func broken(dbos.Context, order) (string, error) {
	return "", errors.New("no such luck")
}

func note(id string, number int) error {
	notes, err := os.OpenFile(os.Getenv("NOTES"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer notes.Close()
	_, err = fmt.Fprintf(notes, "%s %d\n", id, number)
	return err
}

func main() {
	ctx, err := dbos.NewContext(context.Background(), dbos.Config{
		AppName:            os.Getenv("APP"),
		DatabaseURL:        os.Getenv("APP_DATABASE_URL"),
		ApplicationVersion: os.Getenv("APP_VERSION"),
		ConductorURL:       os.Getenv("CONDUCTOR_URL"),
		ConductorAPIKey:    os.Getenv("CONDUCTOR_KEY"),
	})
	if err != nil {
		log.Fatal(err)
	}
	dbos.RegisterWorkflow(ctx, job, dbos.WithWorkflowName("job"))
	dbos.RegisterWorkflow(ctx, broken, dbos.WithWorkflowName("broken"))
	if err := dbos.Launch(ctx); err != nil {
		log.Fatal(err)
	}
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		words := strings.Fields(orders.Text())
		run, wanted := broken, order{}
		if words[0] == "start" {
			run = job
			wanted.Steps, _ = strconv.Atoi(words[2])
			wanted.Secs, _ = strconv.ParseFloat(words[3], 64)
		}
		if _, err := dbos.RunWorkflow(ctx, run, wanted, dbos.WithWorkflowID(words[1])); err != nil {
			log.Fatal(err)
		}
	}
	select {}
}
