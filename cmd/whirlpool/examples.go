package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// addExamples sets the examples of the commands below root.
func addExamples(root *cobra.Command) {
	for _, example := range []string{
		"ca show --ca-file /etc/whirlpool/ca.pem",
		"ca trust",
		"ca trust --install",
		"config check koanf.toml",
		"config check koanf.toml --offline --json",
		"config diff koanf.toml",
		"config fmt koanf.toml",
		"config fmt koanf.toml --write",
		"config init",
		"config init - >/etc/whirlpool/koanf.toml",
		"health --ready",
		"plugin activate mine first",
		"plugin activate none judge",
		"plugin bench mine.wasm --config margin=0.5",
		"plugin delete mine",
		"plugin inspect mine.wasm",
		"plugin list",
		"plugin logs mine --follow",
		"plugin release mine",
		"plugin rollback mine",
		"plugin test mine",
		"plugin test mine --input inputs.json",
		"policy get",
		"policy reset",
		"proxies delete p1 p2",
		"proxies drain p1 p2",
		"proxies reset p1 p2",
		"proxies restore p1 p2",
		"proxies unban p1 p2",
		"proxies unban p1 --host shop.example",
		"proxies undrain p1 p2",
		"reload",
		"state clear --key proxy/p1",
		"state show",
		"version --json",
	} {
		addExample(root, example)
	}
}

// addExample adds an example, without the name of the program, to the examples of its command.
func addExample(root *cobra.Command, example string) {
	cmd, _, err := root.Find(strings.Fields(example))
	if err != nil {
		return // TestCommandsHaveExamples finds the misspelt command
	}
	if cmd.Example != "" {
		cmd.Example += "\n"
	}
	cmd.Example += "  whirlpool " + example
}
