package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The raw load client: batches are built once, only sequence number and CRC change from send to send,
// so that on a small machine the broker and not the client is measured.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	batchCRCAt      = 17
	batchAttrsAt    = 21
	batchSequenceAt = 53
)

// newBatch builds one uncompressed v2 record batch of records with random values.
func newBatch(records, valueBytes int, producerID int64, epoch int16) []byte {
	now := time.Now().UnixMilli()
	b := kbin.AppendInt64(nil, 0) // base offset
	b = kbin.AppendInt32(b, 0)    // length, below
	b = kbin.AppendInt32(b, -1)   // leader epoch
	b = append(b, 2, 0, 0, 0, 0)  // magic, crc
	b = kbin.AppendInt16(b, 0)    // attributes
	b = kbin.AppendInt32(b, int32(records-1))
	b = kbin.AppendInt64(b, now)
	b = kbin.AppendInt64(b, now)
	b = kbin.AppendInt64(b, producerID)
	b = kbin.AppendInt16(b, epoch)
	b = kbin.AppendInt32(b, 0) // base sequence
	b = kbin.AppendInt32(b, int32(records))
	value := make([]byte, valueBytes)
	for i := range records {
		rand.Read(value)
		r := append([]byte(nil), 0)
		r = kbin.AppendVarint(r, 0)
		r = kbin.AppendVarint(r, int32(i))
		r = kbin.AppendVarint(r, -1)
		r = kbin.AppendVarintBytes(r, value)
		r = kbin.AppendVarint(r, 0)
		b = append(kbin.AppendVarint(b, int32(len(r))), r...)
	}
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	patch(b, 0)
	return b
}

func patch(b []byte, sequence int32) {
	binary.BigEndian.PutUint32(b[batchSequenceAt:], uint32(sequence))
	binary.BigEndian.PutUint32(b[batchCRCAt:], crc32.Checksum(b[batchAttrsAt:], castagnoli))
}

type layout struct {
	id     [16]byte
	leader []int32
}

// settings are topic configs from repeated `-config name=value` flags.
type settings map[string]*string

func (s settings) String() string { return "" }

func (s settings) Set(text string) error {
	name, value, _ := strings.Cut(text, "=")
	s[name] = &value
	return nil
}

func prepare(ctx context.Context, cl *kgo.Client, topic string, partitions int, configs settings) layout {
	adm := kadm.NewClient(cl)
	if partitions > 0 {
		if _, err := adm.CreateTopic(ctx, int32(partitions), 1, configs, topic); err != nil {
			fail(err)
		}
	}
	for {
		topics, err := adm.ListTopics(ctx, topic)
		fail(err)
		t := topics[topic]
		l := layout{id: t.ID}
		for _, p := range t.Partitions.Sorted() {
			if p.Err == nil && p.Leader >= 0 {
				l.leader = append(l.leader, p.Leader)
			}
		}
		if t.Err == nil && len(l.leader) > 0 && len(l.leader) == len(t.Partitions) && (partitions == 0 || len(l.leader) == partitions) {
			return l
		}
		fail(ctx.Err())
	}
}

func loadProduce(args []string) {
	c := commonFlags("load-produce")
	partitions := c.flags.Int("partitions", 6, "")
	valueBytes := c.flags.Int("value", 1024, "")
	batchBytes := c.flags.Int("batch", 512<<10, "")
	megabytes := c.flags.Int64("megabytes", 1000, "payload to send")
	configs := settings{}
	c.flags.Var(configs, "config", "topic config, name=value")
	c.flags.Parse(args)
	cl := c.client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *c.timeout)
	defer cancel()
	l := prepare(ctx, cl, *c.topic, *partitions, configs)
	records := max(1, *batchBytes/(*valueBytes+12))
	pid := kmsg.NewPtrInitProducerIDRequest()
	pid.TransactionTimeoutMillis = 60000
	got, err := pid.RequestWith(ctx, cl)
	fail(err)
	var left atomic.Int64
	left.Store(*megabytes * 1e6)
	var sent atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for p := range *partitions {
		wg.Add(1)
		go func() {
			defer wg.Done()
			batch := newBatch(records, *valueBytes, got.ProducerID, got.ProducerEpoch)
			broker := cl.Broker(int(l.leader[p]))
			for seq := int32(0); left.Add(-int64(len(batch))) > 0; seq += int32(records) {
				patch(batch, seq)
				req := kmsg.NewPtrProduceRequest()
				req.Acks, req.TimeoutMillis = -1, 30000
				t := kmsg.NewProduceRequestTopic()
				t.Topic, t.TopicID = *c.topic, l.id
				tp := kmsg.NewProduceRequestTopicPartition()
				tp.Partition, tp.Records = int32(p), batch
				t.Partitions = append(t.Partitions, tp)
				req.Topics = append(req.Topics, t)
				for {
					r, err := broker.Request(ctx, req)
					fail(err)
					code := r.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode
					if code == 0 {
						break
					}
					// A partition that was just made may not be led yet.
					if e := kerr.ErrorForCode(code); seq > 0 || !kerr.IsRetriable(e) {
						fail(fmt.Errorf("produce to partition %d: %w", p, e))
					}
				}
				sent.Add(int64(len(batch)))
			}
		}()
	}
	wg.Wait()
	d := time.Since(start).Seconds()
	report(map[string]any{"bytes": sent.Load(), "seconds": d, "mb_s": float64(sent.Load()) / 1e6 / d})
}

func loadConsume(args []string) {
	c := commonFlags("load-consume")
	c.flags.Parse(args)
	cl := c.client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *c.timeout)
	defer cancel()
	l := prepare(ctx, cl, *c.topic, 0, nil)
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, *c.topic)
	fail(err)
	var total atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for p := range l.leader {
		wg.Add(1)
		go func() {
			defer wg.Done()
			end, _ := ends.Lookup(*c.topic, int32(p))
			broker := cl.Broker(int(l.leader[p]))
			for at := int64(0); at < end.Offset; {
				req := kmsg.NewPtrFetchRequest()
				req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 500, 1, 8<<20
				req.SessionEpoch = -1
				t := kmsg.NewFetchRequestTopic()
				t.Topic, t.TopicID = *c.topic, l.id
				tp := kmsg.NewFetchRequestTopicPartition()
				tp.Partition, tp.FetchOffset, tp.PartitionMaxBytes = int32(p), at, 4<<20
				t.Partitions = append(t.Partitions, tp)
				req.Topics = append(req.Topics, t)
				r, err := broker.Request(ctx, req)
				fail(err)
				resp := r.(*kmsg.FetchResponse)
				if resp.ErrorCode != 0 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
					fail(fmt.Errorf("fetch partition %d at %d: error %d/%d", p, at, resp.ErrorCode, resp.Topics[0].Partitions[0].ErrorCode))
				}
				b := resp.Topics[0].Partitions[0].RecordBatches
				total.Add(int64(len(b)))
				for len(b) >= 61 {
					n := int(binary.BigEndian.Uint32(b[8:])) + 12
					if n > len(b) {
						break
					}
					at = int64(binary.BigEndian.Uint64(b)) + int64(binary.BigEndian.Uint32(b[23:])) + 1
					b = b[n:]
				}
			}
		}()
	}
	wg.Wait()
	d := time.Since(start).Seconds()
	report(map[string]any{"bytes": total.Load(), "seconds": d, "mb_s": float64(total.Load()) / 1e6 / d})
}

// loadLatency sends at a fixed rate, open loop: a late send counts from the moment it was due.
func loadLatency(args []string) {
	c := commonFlags("load-latency")
	partitions := c.flags.Int("partitions", 6, "")
	valueBytes := c.flags.Int("value", 1024, "")
	rate := c.flags.Int("rate", 1000, "records per second")
	warm := c.flags.Duration("warm", 5*time.Second, "not counted")
	length := c.flags.Duration("length", 20*time.Second, "")
	configs := settings{}
	c.flags.Var(configs, "config", "topic config, name=value")
	c.flags.Parse(args)
	cl := c.client(kgo.DefaultProduceTopic(*c.topic), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *c.timeout)
	defer cancel()
	prepare(ctx, cl, *c.topic, *partitions, configs)
	value := make([]byte, *valueBytes)
	rand.Read(value)
	var mu sync.Mutex
	var seen []float64
	start := time.Now()
	gap := time.Second / time.Duration(*rate)
	due := start
	for n := 0; due.Sub(start) < *warm+*length; n++ {
		due = start.Add(time.Duration(n) * gap)
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		at, counted := due, due.Sub(start) >= *warm
		cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			fail(err)
			if counted {
				mu.Lock()
				seen = append(seen, float64(time.Since(at).Microseconds())/1000)
				mu.Unlock()
			}
		})
	}
	fail(cl.Flush(ctx))
	sort.Float64s(seen)
	q := func(p float64) float64 { return seen[min(len(seen)-1, int(p*float64(len(seen))))] }
	report(map[string]any{"records": len(seen), "p50_ms": q(0.5), "p99_ms": q(0.99), "p999_ms": q(0.999), "max_ms": seen[len(seen)-1]})
}

func report(v map[string]any) { fail(json.NewEncoder(os.Stdout).Encode(v)) }
