package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each Go name in the column "Go" of the glossary exists, so that the glossary is updated when a name
// changes.
func TestGlossaryNames(t *testing.T) {
	declared := declaredNames(t)
	span := regexp.MustCompile("`([^`]+)`")
	names := 0
	for _, line := range strings.Split(read(t, "glossary.md"), "\n") {
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "| ") || len(cells) < 6 {
			continue
		}
		for _, m := range span.FindAllStringSubmatch(cells[3], -1) {
			names++
			if strings.Contains(m[1], "/") { // a package
				_, err := os.Stat("../" + m[1])
				require.NoError(t, err, line)
				continue
			}
			require.True(t, declared[m[1]], "docs/glossary.md names %s, which does not exist: %s", m[1], line)
		}
	}
	require.Greater(t, names, 60)
}

// declaredNames returns the exported names of core, api and plugins: "pkg.Name", "pkg.Type.Member" and "Type.Member".
func declaredNames(t *testing.T) map[string]bool {
	names := map[string]bool{}
	for _, root := range []string{"../core", "../api", "../plugins"} {
		require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, decl := range file.Decls {
				addNames(names, file.Name.Name, decl)
			}
			return nil
		}))
	}
	return names
}

func addNames(names map[string]bool, pkg string, decl ast.Decl) {
	switch decl := decl.(type) {
	case *ast.FuncDecl:
		if decl.Recv == nil {
			names[pkg+"."+decl.Name.Name] = true
			return
		}
		receiver := decl.Recv.List[0].Type
		if star, ok := receiver.(*ast.StarExpr); ok {
			receiver = star.X
		}
		if id, ok := receiver.(*ast.Ident); ok {
			addMember(names, pkg, id.Name, decl.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range decl.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				for _, id := range spec.Names {
					names[pkg+"."+id.Name] = true
				}
			case *ast.TypeSpec:
				names[pkg+"."+spec.Name.Name] = true
				if s, ok := spec.Type.(*ast.StructType); ok {
					for _, field := range s.Fields.List {
						for _, id := range field.Names {
							addMember(names, pkg, spec.Name.Name, id.Name)
						}
					}
				}
			}
		}
	}
}

func addMember(names map[string]bool, pkg, typ, member string) {
	names[typ+"."+member], names[pkg+"."+typ+"."+member] = true, true
}
