// gokafka is the franz-go client of the black-box suites and the load generator of tests/load.
//
// In: a folder of client credentials (ca.pem, cert.pem, key.pem) and flags. Out: plain lines, or one JSON line.
//
// Must not: know anything of Schloss; every command also runs against Apache Kafka.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type common struct {
	flags     *flag.FlagSet
	bootstrap *string
	creds     *string
	topic     *string
	timeout   *time.Duration
}

func commonFlags(name string) common {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	return common{
		flags:     flags,
		bootstrap: flags.String("bootstrap", "localhost:9094", "host:port"),
		creds:     flags.String("creds", "", "folder with ca.pem, cert.pem, key.pem"),
		topic:     flags.String("topic", "", "topic"),
		timeout:   flags.Duration("timeout", 30*time.Second, "give up after"),
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "gokafka:", err)
		os.Exit(1)
	}
}

// tlsConfig trusts only ca.pem of the folder and presents cert.pem.
func tlsConfig(creds string) *tls.Config {
	ca, err := os.ReadFile(filepath.Join(creds, "ca.pem"))
	fail(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		fail(fmt.Errorf("no certificate in ca.pem"))
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(creds, "cert.pem"), filepath.Join(creds, "key.pem"))
	fail(err)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

func (c common) client(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(*c.bootstrap),
		kgo.DialTLSConfig(tlsConfig(*c.creds)),
	}, opts...)...)
	fail(err)
	return cl
}

func codecOf(name string) kgo.CompressionCodec {
	switch name {
	case "none":
		return kgo.NoCompression()
	case "gzip":
		return kgo.GzipCompression()
	case "snappy":
		return kgo.SnappyCompression()
	case "lz4":
		return kgo.Lz4Compression()
	case "zstd":
		return kgo.ZstdCompression()
	}
	fail(fmt.Errorf("no codec %q", name))
	return kgo.NoCompression()
}

// produce reads `key TAB value` lines and prints `partition TAB offset` for each acknowledged one.
func produce(args []string) {
	c := commonFlags("produce")
	codec := c.flags.String("codec", "none", "")
	c.flags.Parse(args)
	cl := c.client(kgo.ProducerBatchCompression(codecOf(*codec)), kgo.DefaultProduceTopic(*c.topic), kgo.ProducerBatchMaxBytes(16<<20))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *c.timeout)
	defer cancel()
	var records []*kgo.Record
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 32<<20)
	for in.Scan() {
		key, value, _ := strings.Cut(in.Text(), "\t")
		records = append(records, &kgo.Record{Key: []byte(key), Value: []byte(value)})
	}
	for _, r := range cl.ProduceSync(ctx, records...) {
		fail(r.Err)
		fmt.Printf("%d\t%d\n", r.Record.Partition, r.Record.Offset)
	}
}

// consume prints `partition TAB offset TAB key TAB value` until count records were seen.
func consume(args []string) {
	c := commonFlags("consume")
	count := c.flags.Int("count", 1, "")
	group := c.flags.String("group", "", "consume as a group member and commit at the end")
	c.flags.Parse(args)
	opts := []kgo.Opt{kgo.ConsumeTopics(*c.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(200 * time.Millisecond)}
	if *group != "" {
		opts = append(opts, kgo.ConsumerGroup(*group))
	}
	cl := c.client(opts...)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *c.timeout)
	defer cancel()
	out := bufio.NewWriter(os.Stdout)
	for n := 0; n < *count; {
		fetches := cl.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			fail(fmt.Errorf("after %d records: %s[%d]: %w", n, e.Topic, e.Partition, e.Err))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			fmt.Fprintf(out, "%d\t%d\t%s\t%s\n", r.Partition, r.Offset, r.Key, r.Value)
		})
	}
	if *group != "" {
		fail(cl.CommitUncommittedOffsets(ctx))
	}
	out.Flush()
}

// admin walks the topic and group administration that kadm offers and prints what it saw as JSON.
func admin(args []string) {
	c := commonFlags("admin")
	c.flags.Parse(args)
	cl := c.client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *c.timeout)
	defer cancel()
	adm := kadm.NewClient(cl)
	one := "3600000"
	created, err := adm.CreateTopic(ctx, 2, 1, map[string]*string{"retention.ms": &one}, *c.topic)
	fail(err)
	fail(created.Err)
	_, err = adm.CreatePartitions(ctx, 1, *c.topic)
	fail(err)
	for i := range 9 {
		fail(cl.ProduceSync(ctx, &kgo.Record{Topic: *c.topic, Value: []byte(fmt.Sprint(i)), Key: []byte(fmt.Sprint(i))}).FirstErr())
	}
	ends, err := adm.ListEndOffsets(ctx, *c.topic)
	fail(err)
	fail(ends.Error())
	total := int64(0)
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	configs, err := adm.DescribeTopicConfigs(ctx, *c.topic)
	fail(err)
	retention := ""
	for _, cfg := range configs[0].Configs {
		if cfg.Key == "retention.ms" && cfg.Value != nil {
			retention = *cfg.Value
		}
	}
	topics, err := adm.ListTopics(ctx, *c.topic)
	fail(err)
	deleted, err := adm.DeleteTopic(ctx, *c.topic)
	fail(err)
	fail(deleted.Err)
	json.NewEncoder(os.Stdout).Encode(map[string]any{"partitions": len(topics[*c.topic].Partitions), "records": total, "retention": retention})
}

// scan tries TLS versions, suites and groups one by one and prints which handshakes were accepted.
func scan(args []string) {
	c := commonFlags("scan")
	c.flags.Parse(args)
	base := tlsConfig(*c.creds)
	host, _, err := net.SplitHostPort(*c.bootstrap)
	fail(err)
	base.ServerName = host
	try := func(edit func(*tls.Config)) map[string]any {
		cfg := base.Clone()
		edit(cfg)
		d := &net.Dialer{Timeout: 5 * time.Second}
		conn, err := tls.DialWithDialer(d, "tcp", *c.bootstrap, cfg)
		if err != nil {
			return map[string]any{"ok": false, "error": err.Error()}
		}
		defer conn.Close()
		s := conn.ConnectionState()
		return map[string]any{"ok": true, "version": tls.VersionName(s.Version), "suite": tls.CipherSuiteName(s.CipherSuite), "group": s.CurveID.String()}
	}
	seen := map[string]any{"default": try(func(*tls.Config) {})}
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		seen[tls.VersionName(v)] = try(func(cfg *tls.Config) { cfg.MinVersion, cfg.MaxVersion = v, v })
	}
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if len(s.SupportedVersions) == 1 && s.SupportedVersions[0] == tls.VersionTLS13 {
			continue
		}
		seen[s.Name] = try(func(cfg *tls.Config) {
			cfg.MinVersion, cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, tls.VersionTLS12, []uint16{s.ID}
		})
	}
	for _, g := range []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256} {
		seen["group:"+g.String()] = try(func(cfg *tls.Config) { cfg.CurvePreferences = []tls.CurveID{g} })
	}
	json.NewEncoder(os.Stdout).Encode(seen)
}

func main() {
	commands := map[string]func([]string){"produce": produce, "consume": consume, "admin": admin, "scan": scan,
		"load-produce": loadProduce, "load-consume": loadConsume, "load-latency": loadLatency}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: gokafka produce|consume|admin|scan|load-produce|load-consume|load-latency [flags]")
		os.Exit(2)
	}
	commands[os.Args[1]](os.Args[2:])
}
