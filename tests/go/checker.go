// Checks an exported purge log with Go's own packages, golang.org/x/mod/sumdb/note and tlog: nothing of the gateway's.
//
//	checker DIR VKEY [OLD_CHECKPOINT]
//
// The checkpoint's signature, its root against the tiles, every entry against the tree, inclusion proofs for three of
// each bundle, and, given the checkpoint of an earlier state, a consistency proof. Prints "ok <size> <root>", or what is wrong and exits with status 1.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

// dir reads C2SP tiles: the same as the checksum database's, but without the height in their paths.
type dir string

func (d dir) Height() int { return height }

func (d dir) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := os.ReadFile(d.path(tile))
		if err != nil {
			return nil, err
		}
		if len(data) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", d.path(tile), len(data))
		}
		all = append(all, data)
	}
	return all, nil
}

func (d dir) SaveTiles([]tlog.Tile, [][]byte) {}

func (d dir) path(tile tlog.Tile) string {
	path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
	path = strings.Replace(path, "tile/data/", "tile/entries/", 1)
	return filepath.Join(string(d), filepath.FromSlash(path))
}

// entries reads one bundle: each entry behind its length as a big-endian uint16.
func (d dir) entries(n int64, width int) ([][]byte, error) {
	data, err := os.ReadFile(d.path(tlog.Tile{H: height, L: -1, N: n, W: width}))
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for len(data) >= 2 {
		size := int(binary.BigEndian.Uint16(data))
		if len(data) < 2+size {
			return nil, fmt.Errorf("bundle %d is cut", n)
		}
		all, data = append(all, data[2:2+size]), data[2+size:]
	}
	if len(data) != 0 || len(all) != width {
		return nil, fmt.Errorf("bundle %d has %d entries and %d odd bytes", n, len(all), len(data))
	}
	return all, nil
}

// open verifies a signed checkpoint. tlog.ParseTree knows the text under the checksum database's own first line.
func open(path string, verifier note.Verifier) (tlog.Tree, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(data, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	origin, rest, _ := strings.Cut(opened.Text, "\n")
	if origin != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("a checkpoint of %q, signed by %q", origin, verifier.Name())
	}
	return tlog.ParseTree([]byte("go.sum database tree\n" + rest))
}

func check(log dir, vkey, old string) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	tree, err := open(filepath.Join(string(log), "checkpoint"), verifier)
	if err != nil || tree.N == 0 {
		return tree, err
	}
	reader := tlog.TileHashReader(tree, log)
	root, err := tlog.TreeHash(tree.N, reader)
	if err != nil {
		return tree, err
	}
	if root != tree.Hash {
		return tree, fmt.Errorf("the tiles have the root %v", root)
	}
	for first := int64(0); first < tree.N; first += 1 << height {
		width := 1 << height
		if tree.N-first < int64(width) {
			width = int(tree.N - first)
		}
		entries, err := log.entries(first>>height, width)
		if err != nil {
			return tree, err
		}
		// The reader returns only hashes that it has proven to be in the signed tree.
		indexes := make([]int64, width)
		for i := range indexes {
			indexes[i] = tlog.StoredHashIndex(0, first+int64(i))
		}
		hashes, err := reader.ReadHashes(indexes)
		if err != nil {
			return tree, err
		}
		for i, entry := range entries {
			if tlog.RecordHash(entry) != hashes[i] {
				return tree, fmt.Errorf("entry %d is not in the tree", first+int64(i))
			}
		}
		for _, i := range []int{0, width / 2, width - 1} {
			index := first + int64(i)
			proof, err := tlog.ProveRecord(tree.N, index, reader)
			if err != nil {
				return tree, err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entries[i])); err != nil {
				return tree, fmt.Errorf("entry %d: %w", index, err)
			}
		}
	}
	if old == "" {
		return tree, nil
	}
	before, err := open(old, verifier)
	if err != nil {
		return tree, err
	}
	if before.N > tree.N {
		return tree, fmt.Errorf("the log shrank from %d to %d", before.N, tree.N)
	}
	proof, err := tlog.ProveTree(tree.N, before.N, reader)
	if err != nil {
		return tree, err
	}
	return tree, tlog.CheckTree(proof, tree.N, tree.Hash, before.N, before.Hash)
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: checker DIR VKEY [OLD_CHECKPOINT]")
		os.Exit(2)
	}
	old := ""
	if len(os.Args) > 3 {
		old = os.Args[3]
	}
	tree, err := check(dir(os.Args[1]), os.Args[2], old)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ok", tree.N, tree.Hash)
}
