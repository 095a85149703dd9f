// gologin is the Go login client of the black-box suites: franz-go with its SASL packages, and AWS SDK for Go v2.
//
// In: one JSON object a line, {"verb": ..., ...}. Out: one JSON object a line, {"ok": true, ...} or {"ok": false, "error": ...}.
// Verbs: open (handle, bootstrap, ca, mechanism, login) logs in by asking for the cluster; describe, produce, consume and close use
// the handle; sts calls the endpoint that AWS_ENDPOINT_URL_STS names. The region is AWS_REGION, as franz-go takes it.
//
// Must not: know anything of Schloss; everything but sts runs against Apache Kafka as well.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	kafkaaws "github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const patience = 15 * time.Second

type key struct {
	AccessKey    string `json:"access_key"`
	SecretKey    string `json:"secret_key"`
	SessionToken string `json:"session_token"`
}

type command struct {
	Verb, Handle, Bootstrap, CA, Mechanism string
	ServerName                             string `json:"server_name"`
	Certificate, PrivateKey                string
	Login                                  struct {
		key
		Username, Password, Token string
		DelegationToken           bool `json:"delegation_token"`
		Extensions                map[string]string
	}
	Topic, Value string
	Count        int

	Operation   string
	Credentials *key
	Region      string
	Parameters  json.RawMessage
}

var handles = map[string]*kgo.Client{}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var c command
		err := json.Unmarshal(in.Bytes(), &c)
		answer := map[string]any{}
		if err == nil {
			answer, err = call(c)
		}
		if err != nil {
			answer = map[string]any{"error": err.Error()}
			var api smithy.APIError
			if errors.As(err, &api) {
				answer["code"], answer["error"] = api.ErrorCode(), api.ErrorMessage()
			}
		}
		answer["ok"] = err == nil
		if err := out.Encode(answer); err != nil {
			os.Exit(1)
		}
	}
}

func call(c command) (map[string]any, error) {
	if c.Verb == "open" {
		return open(c)
	}
	if c.Verb == "sts" {
		return callSTS(c)
	}
	cl := handles[c.Handle]
	if cl == nil {
		return nil, fmt.Errorf("no handle %q", c.Handle)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch c.Verb {
	case "describe":
		return describe(ctx, cl)
	case "produce":
		r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: c.Topic, Key: []byte("k"), Value: []byte(c.Value)}).First()
		if err != nil {
			return nil, err
		}
		return map[string]any{"partition": r.Partition, "offset": r.Offset}, nil
	case "consume":
		return consume(ctx, cl, c)
	case "close":
		cl.Close()
		delete(handles, c.Handle)
		return map[string]any{}, nil
	}
	return nil, fmt.Errorf("no verb %q", c.Verb)
}

func open(c command) (map[string]any, error) {
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: c.ServerName}
	conf.RootCAs.AppendCertsFromPEM(ca)
	if c.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(c.Certificate, c.PrivateKey)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	opts := []kgo.Opt{kgo.SeedBrokers(c.Bootstrap), kgo.DialTLSConfig(conf), kgo.RequestRetries(0), kgo.ProducerLinger(0),
		kgo.RecordDeliveryTimeout(patience), kgo.FetchMaxWait(200 * time.Millisecond)}
	if c.Mechanism != "" {
		m, err := mechanism(c)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	seen, err := describe(ctx, cl)
	if err != nil {
		cl.Close()
		return nil, err
	}
	handles[c.Handle] = cl
	return seen, nil
}

func mechanism(c command) (sasl.Mechanism, error) {
	switch c.Mechanism {
	case "AWS_MSK_IAM":
		return kafkaaws.Auth{AccessKey: c.Login.AccessKey, SecretKey: c.Login.SecretKey, SessionToken: c.Login.SessionToken}.AsManagedStreamingIAMMechanism(), nil
	case "SCRAM-SHA-256":
		return scram.Auth{User: c.Login.Username, Pass: c.Login.Password, IsToken: c.Login.DelegationToken}.AsSha256Mechanism(), nil
	case "SCRAM-SHA-512":
		return scram.Auth{User: c.Login.Username, Pass: c.Login.Password, IsToken: c.Login.DelegationToken}.AsSha512Mechanism(), nil
	case "OAUTHBEARER":
		return oauth.Auth{Token: c.Login.Token, Extensions: c.Login.Extensions}.AsMechanism(), nil
	}
	return nil, fmt.Errorf("no mechanism %q", c.Mechanism)
}

func describe(ctx context.Context, cl *kgo.Client) (map[string]any, error) {
	r, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	return map[string]any{"cluster": r.ClusterID, "nodes": len(r.Brokers)}, nil
}

func consume(ctx context.Context, cl *kgo.Client, c command) (map[string]any, error) {
	cl.AddConsumeTopics(c.Topic)
	values := []string{}
	for len(values) < c.Count {
		fetches := cl.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			return nil, fmt.Errorf("after %d records: %w", len(values), e.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	return map[string]any{"values": values}, nil
}

func callSTS(c command) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var provider aws.CredentialsProvider = aws.AnonymousCredentials{}
	if k := c.Credentials; k != nil {
		provider = credentials.NewStaticCredentialsProvider(k.AccessKey, k.SecretKey, k.SessionToken)
	}
	region := c.Region
	if region == "" {
		region = "eu-central-1"
	}
	conf, err := config.LoadDefaultConfig(ctx, config.WithCredentialsProvider(provider), config.WithRegion(region), config.WithRetryMaxAttempts(1))
	if err != nil {
		return nil, err
	}
	client := sts.NewFromConfig(conf)
	var answer any
	switch c.Operation {
	case "AssumeRole":
		in := new(sts.AssumeRoleInput)
		if err = fill(c, in); err == nil {
			answer, err = client.AssumeRole(ctx, in)
		}
	case "AssumeRoleWithWebIdentity":
		in := new(sts.AssumeRoleWithWebIdentityInput)
		if err = fill(c, in); err == nil {
			answer, err = client.AssumeRoleWithWebIdentity(ctx, in)
		}
	case "GetSessionToken":
		in := new(sts.GetSessionTokenInput)
		if err = fill(c, in); err == nil {
			answer, err = client.GetSessionToken(ctx, in)
		}
	case "GetCallerIdentity":
		answer, err = client.GetCallerIdentity(ctx, new(sts.GetCallerIdentityInput))
	default:
		err = fmt.Errorf("no operation %q", c.Operation)
	}
	if err != nil {
		return nil, err
	}
	// The members have the names of the model; only the metadata of the call is no member.
	text, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	plain := map[string]any{}
	if err := json.Unmarshal(text, &plain); err != nil {
		return nil, err
	}
	delete(plain, "ResultMetadata")
	return plain, nil
}

func fill(c command, in any) error {
	if len(c.Parameters) == 0 {
		return nil
	}
	return json.Unmarshal(c.Parameters, in)
}
