package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/whirlpool-proxy/whirlpool/core/access"
)

// secretArgs is the annotation of a command whose arguments may contain a password. The errors of the command do not
// quote the arguments.
const secretArgs = "secret arguments"

// maxPassword is the maximum length of a password in bytes.
const maxPassword = 1024

func passwdCommand() *cobra.Command {
	useBcrypt, asJSON := false, false
	cmd := &cobra.Command{
		Use: "passwd", Short: "Print the hash of a password, for password in [[gateway.users]]",
		Long: `Print the hash of a password, for password or password_file in
[[gateway.users]]. The password is read from the terminal, or else from the
first line of the standard input.`,
		Example:     "  whirlpool passwd\n  whirlpool passwd <password.txt >hash.txt",
		Annotations: map[string]string{secretArgs: "true"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			password, err := readPassword(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			hash := ""
			if !useBcrypt {
				hash = access.HashArgon2id(password)
			} else if hash, err = access.HashBcrypt(password); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{"hash": hash})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), hash)
			return err
		},
	}
	cmd.Flags().BoolVar(&useBcrypt, "bcrypt", false, "use bcrypt in place of argon2id")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// readPassword reads a password. If in is a terminal, it asks for the password twice, without echo. Otherwise it
// reads the first line of in.
func readPassword(in io.Reader, prompt io.Writer) (string, error) {
	password, err := "", error(nil)
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		password, err = askPassword(int(f.Fd()), prompt)
	} else {
		password, err = bufio.NewReader(io.LimitReader(in, maxPassword+2)).ReadString('\n')
		if err == io.EOF {
			err = nil
		}
		password = strings.TrimSuffix(strings.TrimSuffix(password, "\n"), "\r")
	}
	switch {
	case err != nil:
		return "", err
	case password == "":
		return "", errors.New("the password is empty")
	case len(password) > maxPassword:
		return "", fmt.Errorf("the password is longer than %d bytes", maxPassword)
	}
	return password, nil
}

func askPassword(terminal int, prompt io.Writer) (string, error) {
	ask := func(text string) (string, error) {
		fmt.Fprint(prompt, text)
		defer fmt.Fprintln(prompt)
		b, err := term.ReadPassword(terminal)
		return string(b), err
	}
	password, err := ask("Password: ")
	if err != nil {
		return "", err
	}
	repeated, err := ask("Again: ")
	if err == nil && repeated != password {
		err = errors.New("the two passwords differ")
	}
	return password, err
}
