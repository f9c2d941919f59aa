package bucket

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
)

// Open opens the bucket that a URL names, without asking it anything. Every request is given up when ctx ends, with its cause.
//
//	s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION&path-style=true
//
// The prefix and all options may be left out. The endpoint is then Amazon's and the region that of AWS_REGION, or
// us-east-1. path-style says whether the bucket stands in the path or in the host's name; left out, the endpoint tells.
// Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from AWS_SHARED_CREDENTIALS_FILE
// (~/.aws/credentials) and AWS_PROFILE, or from the machine's role. AWS_CA_BUNDLE is a file of certificates to trust
// beside the system's.
func Open(ctx context.Context, from string) (*Bucket, error) {
	b, endpoint, options, err := parse(from)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", from, err)
	}
	if b.transport, err = transport(); err != nil {
		return nil, err
	}
	b.ctx = ctx
	options.Transport = b.transport
	options.Creds = credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	})
	if b.s3, err = minio.NewCore(endpoint, &options); err != nil {
		return nil, fmt.Errorf("%q: %w", from, err)
	}
	return b, nil
}

const amazon = "https://s3.amazonaws.com"

// parse reads the URL: the bucket, the endpoint as HOST:PORT, and how to talk to it.
func parse(from string) (*Bucket, string, minio.Options, error) {
	var options minio.Options
	u, err := url.Parse(from)
	if err != nil {
		return nil, "", options, errors.Unwrap(err)
	}
	if u.Scheme != "s3" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, "", options, errors.New("want s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, "", options, err
	}
	b := &Bucket{bucket: u.Host}
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		if !fs.ValidPath(prefix) {
			return nil, "", options, fmt.Errorf("the prefix %q has empty or dotted parts", prefix)
		}
		b.prefix = prefix + "/"
	}
	host := amazon
	options.Region = region()
	for name, values := range query {
		if err := option(name, values[len(values)-1], &host, &options); err != nil {
			return nil, "", options, err
		}
	}
	endpoint, err := url.Parse(host)
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "https" && !(endpoint.Scheme == "http" && isLoopback(endpoint.Hostname())) {
		return nil, "", options, fmt.Errorf("endpoint %q: want https://HOST:PORT (http:// only on this machine)", host)
	}
	options.Secure = endpoint.Scheme == "https"
	return b, endpoint.Host, options, nil
}

func option(name, value string, host *string, options *minio.Options) error {
	switch name {
	case "endpoint":
		*host = value
	case "region":
		options.Region = value
	case "path-style":
		lookup, ok := map[string]minio.BucketLookupType{"true": minio.BucketLookupPath, "false": minio.BucketLookupDNS}[value]
		if !ok {
			return fmt.Errorf("path-style %q: true or false", value)
		}
		options.BucketLookup = lookup
	default:
		return fmt.Errorf("unknown option %q: endpoint, region or path-style", name)
	}
	return nil
}

func region() string {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if region := os.Getenv(name); region != "" {
			return region
		}
	}
	return "us-east-1"
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// transport never waits for long for a server that says nothing; how long a whole request may take is up to its context.
func transport() (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 20 * time.Second,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
	}
	bundle := os.Getenv("AWS_CA_BUNDLE")
	if bundle == "" {
		return t, nil
	}
	pem, err := os.ReadFile(bundle)
	if err != nil {
		return nil, fmt.Errorf("AWS_CA_BUNDLE: %w", err)
	}
	if t.TLSClientConfig.RootCAs, err = x509.SystemCertPool(); err != nil {
		return nil, err
	}
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("AWS_CA_BUNDLE: no certificate in %s", bundle)
	}
	return t, nil
}

// Prove makes sure that the bucket can be written and that its conditional writes have one winner: a server that ignores
// the conditions would let two hosts publish over each other.
func (b *Bucket) Prove() error {
	name := "probe-" + rand.Text()
	defer b.Remove(name)
	if err := b.Create(name, []byte("first")); err != nil {
		return err
	}
	first, err := b.Tag(name)
	if err != nil {
		return err
	}
	if err := b.Create(name, []byte("second")); !errors.Is(err, depot.ErrExists) {
		return b.unfit("If-None-Match: *", err)
	}
	if _, err := b.Swap(b.ctx, name, []byte("third"), first); err != nil {
		return err
	}
	if _, err := b.Swap(b.ctx, name, []byte("fourth"), first); !errors.Is(err, depot.ErrChanged) {
		return b.unfit("If-Match", err)
	}
	data, _, err := b.Read(name, 16)
	if err == nil && string(data) != "third" {
		err = fmt.Errorf("%s shows %q after \"third\" was written", b, data)
	}
	return err
}

// unfit is the error of a server that has answered a conditional write in another way than by refusing it.
func (b *Bucket) unfit(header string, err error) error {
	if err == nil {
		return fmt.Errorf("%s does not honour %s, so that two hosts would publish over each other: use another server", b, header)
	}
	return err
}
