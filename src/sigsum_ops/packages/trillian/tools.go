//go:build tools

// Package trillian holds no code: its imports make go.mod and go.sum fix every module that goes
// into the programs of the Debian package.
package trillian

import (
	_ "github.com/google/trillian/cmd/createtree"
	_ "github.com/google/trillian/cmd/trillian_log_server"
	_ "github.com/google/trillian/cmd/trillian_log_signer"
	_ "github.com/google/trillian/cmd/updatetree"
)
