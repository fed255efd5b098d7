package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
)

// maxNews is the maximum number of messages that wait for the function of Listen. Further ones are dropped.
const maxNews = 256

// newsChannel returns the channel on which exchanges publish the records of urgent operations; "" if the store does not
// permit that.
func (s *Store) newsChannel() string {
	if s.noNews.Load() {
		return ""
	}
	return s.prefix + "news"
}

// Listen implements cluster.Store. The messages come on the connection of the exchanges. A goroutine of their own calls
// f, so that f does not delay the reply of an exchange.
func (s *Store) Listen(ctx context.Context, f func(cluster.News)) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages, done := make(chan string, maxNews), make(chan struct{})
	go func() {
		defer close(done)
		for m := range messages {
			if news, err := parseNews(m); err == nil {
				f(news)
			}
		}
	}()
	defer func() {
		close(messages)
		<-done
	}()
	s.noNews.Store(false)
	err = c.Receive(ctx, c.B().Subscribe().Channel(s.newsChannel()).Build(), func(m rueidis.PubSubMessage) {
		select {
		case messages <- m.Message:
		default:
		}
	})
	if refused, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(refused.Error(), "NOPERM") {
		s.noNews.Store(true)
		return fmt.Errorf("%w: %w", cluster.ErrNoNews, err)
	}
	if err == nil {
		err = errors.New("the store has ended the subscription")
	}
	return err
}

// parseNews parses the message of an exchange: the epoch, then a key and a record (parseRecord) for each record.
func parseNews(message string) (n cluster.News, err error) {
	var parts []string
	if err := json.Unmarshal([]byte(message), &parts); err != nil {
		return n, err
	}
	if len(parts)%2 == 0 {
		return n, fmt.Errorf("the store's message has %d parts", len(parts))
	}
	n.Epoch = parts[0]
	for i := 1; i < len(parts); i += 2 {
		r, err := parseRecord(parts[i], parts[i+1])
		if err != nil {
			return n, err
		}
		n.Records = append(n.Records, r)
	}
	return n, nil
}
