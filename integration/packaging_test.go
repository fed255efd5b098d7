package integration

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// output runs a program and returns its standard output. It fails if the program does.
func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(t, err, "%s %s\n%s%s", program, strings.Join(args, " "), out, errs.String())
	return string(out)
}

// The Debian package has the files of make install: binary, unit, man pages and completions. Two builds are equal.
func TestTheDebianPackage(t *testing.T) {
	dir := t.TempDir()
	var sums []string
	deb := ""
	for _, out := range []string{"a", "b"} {
		deb = strings.TrimSpace(output(t, "../packaging/deb", "v1.2.3", runtime.GOARCH, filepath.Join(dir, out)))
		text, err := os.ReadFile(deb)
		require.NoError(t, err)
		sum := sha256.Sum256(text)
		sums = append(sums, string(sum[:]))
	}
	require.Equal(t, sums[0], sums[1], "the package is reproducible")
	require.Equal(t, "1.2.3\n", output(t, "dpkg-deb", "-f", deb, "Version"))
	root := filepath.Join(dir, "root")
	output(t, "dpkg-deb", "-x", deb, root)
	require.Equal(t, "whirlpool v1.2.3\n", output(t, root+"/usr/bin/whirlpool", "version"))
	for _, file := range []string{"/etc/whirlpool/koanf.toml", "/usr/lib/systemd/system/whirlpool.service",
		"/usr/lib/sysusers.d/whirlpool.conf", "/usr/share/zsh/site-functions/_whirlpool",
		"/usr/share/fish/vendor_completions.d/whirlpool.fish"} {
		require.FileExists(t, root+file)
	}
	unit, err := os.ReadFile(root + "/usr/lib/systemd/system/whirlpool.service")
	require.NoError(t, err)
	require.Contains(t, string(unit), "ExecStart=/usr/bin/whirlpool serve")
	require.Contains(t, string(unit), "Type=notify\nWatchdogSec=")
	output(t, "bash", "-n", root+"/usr/share/bash-completion/completions/whirlpool")
	pages, err := filepath.Glob(root + "/usr/share/man/man1/*.1.gz")
	require.NoError(t, err)
	require.Greater(t, len(pages), 40)
	page := output(t, "man", "-l", "-Tascii", root+"/usr/share/man/man1/whirlpool-config-diff.1.gz")
	require.Contains(t, page, "Compare a configuration file")
}

// The archives of two builds are equal. The archive for Windows is a zip file with an .exe.
func TestTheArchives(t *testing.T) {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	dir, sums := t.TempDir(), map[string]string{}
	for _, out := range []string{"a", "b"} {
		t.Setenv("DIST", filepath.Join(dir, out))
		output(t, "../packaging/dist", "v1.2.3", platform, "windows/amd64")
		text, err := os.ReadFile(filepath.Join(dir, out, "SHA256SUMS"))
		require.NoError(t, err)
		sums[out] = string(text)
	}
	require.Equal(t, sums["a"], sums["b"], "the archives are reproducible")
	name := "whirlpool-v1.2.3-" + strings.ReplaceAll(platform, "/", "-")
	output(t, "tar", "-xzf", filepath.Join(dir, "a", name+".tar.gz"), "-C", dir)
	require.Equal(t, "whirlpool v1.2.3\n", output(t, filepath.Join(dir, name, "whirlpool"), "version"))
	archive, err := zip.OpenReader(filepath.Join(dir, "a", "whirlpool-v1.2.3-windows-amd64.zip"))
	require.NoError(t, err)
	defer archive.Close()
	var files []string
	for _, f := range archive.File {
		files = append(files, strings.TrimPrefix(f.Name, "whirlpool-v1.2.3-windows-amd64/"))
	}
	require.Equal(t, []string{"CHANGELOG.md", "LICENSE", "README.md", "koanf.toml", "whirlpool.exe"}, files)
}

// The image contains the binary and runs it as a user without rights. The image's health check succeeds while the
// gateway runs.
func TestTheImage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the image is mounted, which needs root")
	}
	storage := []string{"--root", t.TempDir(), "--runroot", t.TempDir(), "--storage-driver", "vfs"}
	buildah := func(args ...string) string {
		return strings.TrimSpace(output(t, "buildah", append(storage[:len(storage):len(storage)], args...)...))
	}
	output(t, "../packaging/image", append([]string{"v1.2.3", "--isolation", "chroot"}, storage...)...)
	var image struct {
		Docker struct {
			Config struct {
				User        string
				Entrypoint  []string
				Cmd         []string
				Env         []string
				Healthcheck struct{ Test []string }
			} `json:"config"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(buildah("inspect", "--type", "image", "whirlpool:v1.2.3")), &image))
	config := image.Docker.Config
	require.Equal(t, "65532:65532", config.User)
	require.Equal(t, []string{"/usr/bin/whirlpool"}, config.Entrypoint)
	require.Equal(t, []string{"CMD", "/usr/bin/whirlpool", "health"}, config.Healthcheck.Test)

	container := buildah("from", "whirlpool:v1.2.3")
	root := buildah("mount", container)
	defer buildah("umount", container)
	inside := func(args ...string) *exec.Cmd {
		cmd := exec.Command("chroot", append([]string{"--userspec=" + config.User, root}, args...)...)
		cmd.Env = config.Env
		return cmd
	}
	api := freePort(t)
	config.Env = append(config.Env, "WHIRLPOOL_GATEWAY__LISTEN="+freePort(t), "WHIRLPOOL_API__LISTEN="+api,
		"WHIRLPOOL_URL=http://"+api)
	require.Error(t, inside(config.Healthcheck.Test[1:]...).Run(), "no gateway runs yet")
	serve := inside(append(config.Entrypoint, config.Cmd...)...)
	serve.Stderr = os.Stderr
	require.NoError(t, serve.Start())
	defer func() {
		serve.Process.Signal(os.Interrupt)
		require.NoError(t, serve.Wait())
	}()
	eventually(t, "the health check succeeds",
		func() bool { return inside(config.Healthcheck.Test[1:]...).Run() == nil })
	require.FileExists(t, root+"/var/lib/whirlpool/lock", "the state folder is writable")
}

// The manifests for Kubernetes have probes that are commands of the binary, a budget, and no rights. kustomize
// accepts them, if kubectl is installed.
func TestKubernetes(t *testing.T) {
	text := ""
	for _, name := range []string{"statefulset", "budget", "service"} {
		file, err := os.ReadFile("../packaging/kubernetes/" + name + ".yaml")
		require.NoError(t, err)
		text += "---\n" + string(file)
	}
	if _, err := exec.LookPath("kubectl"); err == nil {
		text = output(t, "kubectl", "kustomize", "../packaging/kubernetes")
	}
	kinds := map[string]map[string]any{}
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var document map[string]any
		err := d.Decode(&document)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		kinds[document["kind"].(string)] = document
	}
	at := func(v any, path ...string) any {
		for _, key := range path {
			if list, ok := v.([]any); ok {
				v = list[0]
			}
			v = v.(map[string]any)[key]
		}
		return v
	}
	pod := at(kinds["StatefulSet"], "spec", "template", "spec")
	for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		command := at(pod, "containers", probe, "exec", "command").([]any)
		args := make([]string, len(command)-1)
		for i := range args {
			args[i] = command[i+1].(string)
		}
		out, err := exec.Command(binary, append(args, "--help")...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	require.Equal(t, true, at(pod, "securityContext", "runAsNonRoot"))
	require.Equal(t, true, at(pod, "containers", "securityContext", "readOnlyRootFilesystem"))
	require.Equal(t, 1, at(kinds["PodDisruptionBudget"], "spec", "maxUnavailable"))
	out, err := exec.Command(binary, "config", "check", "../packaging/kubernetes/koanf.toml").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// The bill of materials names the modules of the binary.
func TestTheBillOfMaterials(t *testing.T) {
	var bill struct {
		Format     string `json:"bomFormat"`
		Components []struct{ Name, Version, PURL string }
	}
	require.NoError(t, json.Unmarshal([]byte(output(t, "go", "run", "../packaging/sbom", binary, "1.2.3")), &bill))
	require.Equal(t, "CycloneDX", bill.Format)
	versions := map[string]string{}
	for _, c := range bill.Components {
		versions[c.Name] = c.Version
	}
	require.Contains(t, versions, "std")
	require.Regexp(t, `^v1\.`, versions["github.com/tetratelabs/wazero"])
	require.NotContains(t, versions, "github.com/stretchr/testify")
}
