// Package bad breaks every rule of the test once. It is read as if it lay in one package after another, and never built.
package bad

import (
	"context"
	"crypto/rand"
	"io/ioutil"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	. "strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	clock "time"
	"unsafe"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/plugin"
	"github.com/fsnotify/fsnotify"
	"github.com/minio/minio-go/v7"
	"github.com/osrg/gobgp/v4/pkg/server"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/cmd/demo"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/page"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/bucket"
	"github.com/coredns-anycast/coredns-anycast/internal/corefiles"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/plugin/meshsync"
	"github.com/coredns-anycast/coredns-anycast/sidecar/bgp"
)

var started = time.Now()

func bad(c chan int) {
	go bad(c)
	c <- <-c
	select {}
	clock.Sleep(1)
	wait := time.After
	println("to the standard error")
}
