// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pillion/test/need"
	"pillion/test/rig"
)

// interopCases are the cases that every implementation of gRPC has, without
// those for credentials and for a resolver of their own
// (grpc/doc/interop-test-descriptions.md).
var interopCases = strings.Fields(`empty_unary large_unary client_streaming server_streaming ping_pong empty_stream
	timeout_on_sleeping_server cancel_after_begin cancel_after_first_response status_code_and_message
	special_status_message custom_metadata unimplemented_method unimplemented_service`)

// compressionCases look at the compression of single messages. grpc-go's
// server lacks them. The probe that is left out asks whether a server looks
// at the compression of requests, which grpc-java's doesn't.
var compressionCases = strings.Fields(`client_compressed_unary_noprobe server_compressed_unary
	client_compressed_streaming_noprobe server_compressed_streaming`)

// interopServer starts an interop server on the port that its arguments name,
// and returns when it accepts connections.
func interopServer(t testing.TB, port string, command ...string) {
	t.Helper()
	process := rig.StartProcess(t, exec.Command(command[0], command[1:]...))
	rig.Until(t, "the interop server listens", func() error {
		if process.Exited() {
			t.Fatalf("the interop server ended: %s%s", process.Stdout, process.Stderr)
		}
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil {
			conn.Close()
		}
		return err
	})
}

func freePort(t testing.TB) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(rig.FreeAddr(t))
	return port
}

// grpcGoFront is the proxy in front of grpc-go's interop server.
func grpcGoFront(t testing.TB) front {
	t.Helper()
	port := freePort(t)
	interopServer(t, port, need.Tool(t, "grpc-go", "server"), "-port", port)
	return startFront(t, "GRPC", port)
}

// interop runs one case of a client.
func interop(command ...string) error {
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// tryInterop runs one case and repeats it once if the client races with
// itself in it: cancel_after_begin expects that its cancellation comes before
// an answer, and fails without any proxy now and then.
func tryInterop(name string, command ...string) error {
	err := interop(command...)
	if err != nil && name == "cancel_after_begin" {
		err = interop(command...)
	}
	return err
}

// TestGRPCGo runs grpc-go's interop client against its server: each case for
// itself, then all of them while others call.
func TestGRPCGo(t *testing.T) {
	t.Parallel()
	client := need.Tool(t, "grpc-go", "client")
	f := grpcGoFront(t)
	call := func(name string, more ...string) []string {
		return append([]string{client, "-server_host", "127.0.0.1", "-server_port", f.port, "-test_case", name}, more...)
	}
	for _, name := range interopCases {
		t.Run(name, func(t *testing.T) {
			if err := tryInterop(name, call(name)...); err != nil {
				t.Error(err)
			}
		})
	}
	// Its calls are large unary ones; an answer is expected within the
	// patience of a test, since this is no measurement.
	load := make(chan error, 1)
	go func() {
		load <- interop(call("rpc_soak", "-soak_num_threads", "8", "-soak_iterations", "400", "-soak_overall_timeout_seconds", "120",
			"-soak_per_iteration_max_acceptable_latency_ms", "20000")...)
	}()
	t.Run("under load", func(t *testing.T) {
		for _, name := range interopCases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if err := tryInterop(name, call(name)...); err != nil {
					t.Error(err)
				}
			})
		}
	})
	if err := <-load; err != nil {
		t.Errorf("the load: %v", err)
	}
}

// TestGRPCJava runs grpc-java's interop client against its own server, which
// is another HTTP/2 and another gRPC, and compresses messages.
func TestGRPCJava(t *testing.T) {
	t.Parallel()
	java := need.Program(t, "java")
	classes := filepath.Join(need.Tool(t, "grpc-java", "jars"), "*")
	main := func(name string, more ...string) []string {
		return append([]string{java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp", classes,
			"io.grpc.testing.integration." + name, "--use_tls=false"}, more...)
	}
	port := freePort(t)
	interopServer(t, port, main("TestServiceServer", "--port="+port)...)
	f := startFront(t, "GRPC", port)
	for _, name := range slices.Concat(interopCases, compressionCases) {
		t.Run(name, func(t *testing.T) {
			if err := tryInterop(name, main("TestServiceClient", "--server_host=127.0.0.1", "--server_port="+f.port, "--test_case="+name)...); err != nil {
				t.Error(err)
			}
		})
	}
}
