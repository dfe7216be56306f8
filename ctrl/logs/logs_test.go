package logs

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFileReopenAndLevel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "npd.log")
	var console bytes.Buffer
	l, err := New(Options{App: "npd", Level: slog.LevelInfo, Console: &console, File: path, JSON: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.Info("one", "port", 7)
	l.Debug("hidden")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.SetLevel(slog.LevelDebug)
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Debug("two")
	old, _ := os.ReadFile(path + ".1")
	now, _ := os.ReadFile(path)
	var line map[string]any
	if err := json.Unmarshal(old, &line); err != nil || line["msg"] != "one" || line["app"] != "npd" || line["ts"] == nil || line["level"] != "INFO" {
		t.Errorf("first file: %s (%v)", old, err)
	}
	if !strings.Contains(string(now), `"two"`) || strings.Contains(string(now), "hidden") || strings.Count(console.String(), "\n") != 2 {
		t.Errorf("second file: %s console: %s", now, console.String())
	}
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := NewLimiter(slog.New(slog.NewTextHandler(&out, nil)), 3, time.Now)
		for range 10 {
			l.Log(slog.LevelWarn, "replay", "handshake refused")
			l.Log(slog.LevelDebug, "replay", "not enabled, not counted")
		}
		l.Log(slog.LevelWarn, "clock", "handshake refused")
		if n := strings.Count(out.String(), "\n"); n != 4 || l.Held() != 7 {
			t.Errorf("%d lines, held %d:\n%s", n, l.Held(), out.String())
		}
		time.Sleep(time.Second)
		out.Reset()
		l.Log(slog.LevelWarn, "replay", "handshake refused")
		if !strings.Contains(out.String(), "held_back=7") {
			t.Errorf("no count of what was held back: %s", out.String())
		}
	})
}
