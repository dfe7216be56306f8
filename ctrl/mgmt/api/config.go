package api

import "time"

// ConfigCandidate is a main file of configuration that is not in force.
type ConfigCandidate struct {
	Name      string `json:"name"`                // of the file, for messages
	Content   string `json:"content"`             // TOML
	Number    int    `json:"number,omitempty"`    // instead of name and content, with diff: one that is kept
	Temporary bool   `json:"temporary,omitempty"` // with apply: until npd reads its files again
}

// ConfigRollback asks for a configuration that is kept. Number 0 is the last one that was
// another than that in force.
type ConfigRollback struct {
	Number    int  `json:"number"`
	Temporary bool `json:"temporary,omitempty"`
}

// ConfigChange is one value that differs. Old and New are as in TOML, "" where there is none.
type ConfigChange struct {
	Key     string `json:"key"` // entries by name: upstream[users].balance
	Old     string `json:"old"`
	New     string `json:"new"`
	Restart bool   `json:"restart"` // only a restart brings it into force
}

// ConfigDiff is what a candidate would change.
type ConfigDiff struct {
	Schema  string         `json:"schema"`
	Restart bool           `json:"restart"` // one of the changes needs one: apply would refuse
	Changes []ConfigChange `json:"changes"`
}

// ConfigApplied is what was changed.
type ConfigApplied struct {
	Schema   string         `json:"schema"`
	Changes  []ConfigChange `json:"changes"`
	Number   int            `json:"number"`          // under which it is kept; 0: it is not
	From     int            `json:"from,omitempty"`  // of a rollback: what was taken
	Saved    string         `json:"saved,omitempty"` // file that has it now; "": it lasts until npd reads its files again
	Warnings []string       `json:"warnings"`
}

// ConfigEntry is a configuration that was in force.
type ConfigEntry struct {
	Number    int       `json:"number"`
	Reason    string    `json:"reason"` // start, reload, apply, rollback
	AppliedAt time.Time `json:"applied_at"`
	SizeBytes int64     `json:"size_bytes"`
	InForce   bool      `json:"in_force"`
	File      string    `json:"file"`
}

// ConfigHistory lists them, the newest first.
type ConfigHistory struct {
	Schema  string        `json:"schema"`
	Entries []ConfigEntry `json:"entries"`
}
