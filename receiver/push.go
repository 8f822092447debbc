// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// obsFormat is what came in, in the Collector's words: nothing of it has a format of its own.
var obsFormat = metadata.Type.String()

// logTransition says once that the consumer refuses, and once that it takes again.
func logTransition(log *zap.Logger, failing bool, err error, what string) bool {
	switch {
	case err != nil && !failing:
		log.Warn("The next consumer refuses "+what, zap.Error(err))
	case err == nil && failing:
		log.Info("The next consumer takes " + what + " again")
	}
	return err != nil
}
