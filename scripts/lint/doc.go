// Package lint holds the rules of the repository that a machine can check, as
// tests: who may know whom, what the pure C folders may call, sizes, generated
// files, words that do not belong here. `make lint` runs it; a rule's failure names the file, the rule and the mend.
package lint
