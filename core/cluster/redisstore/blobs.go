package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
)

// A blob is a hash: the field n has the number of its parts, and the fields 0, 1 and so on have these parts. Blobs have
// a separate connection, because an exchange would wait for large data that are sent before it.
const (
	partSize  = 256 << 10
	partsName = "n"
)

// blobTimeout is the longest time in which a connection sends or receives a part.
const blobTimeout = 10 * time.Second

// blobClient returns the client for blobs, and makes it if there is none.
func (s *Store) blobClient() (rueidis.Client, error) {
	s.blobMu.Lock()
	defer s.blobMu.Unlock()
	switch {
	case s.blobsClosed:
		return nil, errClosed
	case s.blobs != nil:
		return s.blobs, nil
	}
	o := s.opts
	o.ConnWriteTimeout = blobTimeout
	client, err := rueidis.NewClient(o)
	s.blobs = client
	if err != nil {
		s.blobs = nil
	}
	return client, err
}

// closeBlobs closes the connection for blobs.
func (s *Store) closeBlobs() {
	s.blobMu.Lock()
	defer s.blobMu.Unlock()
	s.blobsClosed = true
	if s.blobs != nil {
		s.blobs.Close()
		s.blobs = nil
	}
}

var errClosed = errors.New("the store is closed")

func (s *Store) blobKey(name string) string { return s.prefix + "blob:" + name }

// seconds returns a TTL in the unit of EXPIRE.
func seconds(ttl time.Duration) int64 { return max(int64(ttl/time.Second), 1) }

// WriteBlob implements cluster.Blobs.
func (s *Store) WriteBlob(ctx context.Context, name string, data []byte, ttl time.Duration) error {
	c, err := s.blobClient()
	if err != nil {
		return err
	}
	key, parts := s.blobKey(name), 0
	for ; parts == 0 || parts*partSize < len(data); parts++ {
		part := data[parts*partSize : min((parts+1)*partSize, len(data))]
		fields := c.B().Hset().Key(key).FieldValue().FieldValue(strconv.Itoa(parts), rueidis.BinaryString(part))
		if (parts+1)*partSize >= len(data) { // the last part: with it, the blob is complete
			fields = fields.FieldValue(partsName, strconv.Itoa(parts+1))
		}
		expire := c.B().Expire().Key(key).Seconds(seconds(ttl)).Build()
		for _, r := range c.DoMulti(ctx, fields.Build(), expire) {
			if err := r.Error(); err != nil {
				return err
			}
		}
	}
	return nil
}

// ReadBlob implements cluster.Blobs.
func (s *Store) ReadBlob(ctx context.Context, name string, limit int) ([]byte, error) {
	c, err := s.blobClient()
	if err != nil {
		return nil, err
	}
	read := func(part string) (string, error) {
		text, err := c.Do(ctx, c.B().Hget().Key(s.blobKey(name)).Field(part).Build()).ToString()
		if rueidis.IsRedisNil(err) {
			err = fmt.Errorf("%s: %w", name, cluster.ErrNoBlob)
		}
		return text, err
	}
	text, err := read(partsName)
	if err != nil {
		return nil, err
	}
	parts, err := strconv.Atoi(text)
	if err != nil || parts < 1 {
		return nil, fmt.Errorf("%s in the store has the form of another version", name)
	}
	if err := cluster.CheckBlob(name, (parts-1)*partSize, limit); err != nil {
		return nil, err
	}
	var data []byte
	for i := range parts {
		part, err := read(strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		if data = append(data, part...); len(data) > limit {
			return nil, cluster.CheckBlob(name, len(data), limit)
		}
	}
	return data, nil
}

// ReadBlobs implements cluster.Blobs. Blobs of several parts are read one after another.
func (s *Store) ReadBlobs(ctx context.Context, names []string, limit int) (data [][]byte, errs []error) {
	data, errs = make([][]byte, len(names)), make([]error, len(names))
	c, err := s.blobClient()
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return data, errs
	}
	commands := make(rueidis.Commands, len(names))
	for i, name := range names {
		commands[i] = c.B().Hmget().Key(s.blobKey(name)).Field(partsName, "0").Build()
	}
	for i, r := range c.DoMulti(ctx, commands...) {
		values, err := r.ToArray()
		switch {
		case err != nil:
			errs[i] = err
		case len(values) != 2 || values[0].IsNil() || values[1].IsNil():
			errs[i] = fmt.Errorf("%s: %w", names[i], cluster.ErrNoBlob)
		default:
			if parts, _ := values[0].ToString(); parts != "1" {
				data[i], errs[i] = s.ReadBlob(ctx, names[i], limit)
				continue
			}
			text, err := values[1].ToString()
			if err == nil {
				err = cluster.CheckBlob(names[i], len(text), limit)
			}
			data[i], errs[i] = []byte(text), err
		}
	}
	return data, errs
}

// KeepBlob implements cluster.Blobs.
func (s *Store) KeepBlob(ctx context.Context, name string, ttl time.Duration) (held bool, err error) {
	c, err := s.blobClient()
	if err != nil {
		return false, err
	}
	key := s.blobKey(name)
	replies := c.DoMulti(ctx, c.B().Hget().Key(key).Field(partsName).Build(),
		c.B().Expire().Key(key).Seconds(seconds(ttl)).Build())
	_, err = replies[0].ToString()
	if rueidis.IsRedisNil(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, replies[1].Error()
}
