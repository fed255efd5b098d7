package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// fitHelp makes the help of cmd and of its subcommands fit into the terminal. If the output is not a terminal, the help
// does not change.
func fitHelp(cmd *cobra.Command) {
	printHelp := cmd.HelpFunc()
	cmd.SetHelpFunc(func(c *cobra.Command, args []string) {
		out := c.OutOrStdout()
		f, isFile := out.(*os.File)
		if !isFile {
			printHelp(c, args)
			return
		}
		width, _, err := term.GetSize(int(f.Fd()))
		if err != nil || width < minHelpWidth {
			printHelp(c, args)
			return
		}
		var text bytes.Buffer
		c.SetOut(&text)
		printHelp(c, args)
		c.SetOut(out)
		io.WriteString(out, wrapHelp(text.String(), width))
	})
}

// minHelpWidth is the smallest width, in characters, to which a help is wrapped.
const minHelpWidth = 60

// secondColumn matches the beginning of a line up to its second column: the description of a flag or of a command.
var secondColumn = regexp.MustCompile(`^ +\S.*? {2,}`)

// wrapHelp first joins the lines of each paragraph. Then it breaks each line that is longer than width, between words.
// The rest of a broken line is indented to its second column or, without one, to its first word.
func wrapHelp(text string, width int) string {
	var out strings.Builder
	for _, line := range joinParagraphs(strings.Split(text, "\n")) {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if column := secondColumn.FindString(line); column != "" && len(column) < width/2 {
			indent = len(column)
		}
		for utf8.RuneCountInString(line) > width {
			end := strings.LastIndexByte(line[:width+1], ' ')
			if end <= indent {
				break // a word is longer than the line
			}
			out.WriteString(strings.TrimRight(line[:end], " ") + "\n")
			line = strings.Repeat(" ", indent) + line[end+1:]
		}
		out.WriteString(line + "\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// joinParagraphs appends each line to the line before it, if that line is part of a paragraph and not the last line of
// the paragraph. Lines that begin with a space are not part of a paragraph.
func joinParagraphs(lines []string) (joined []string) {
	const full = 60 // characters; a shorter line is the last one of its paragraph
	isFull := false
	for _, line := range lines {
		isText := line != "" && line[0] != ' '
		if isText && isFull {
			joined[len(joined)-1] += " " + line
		} else {
			joined = append(joined, line)
		}
		isFull = isText && len(line) > full
	}
	return joined
}
