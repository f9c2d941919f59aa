package browser

import (
	"bytes"
	"cmp"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Keep writes a screenshot for the documents to a file, in few colours, if rewrite is set. The file must be there in any case.
func Keep(t testing.TB, file string, data []byte, rewrite bool) {
	t.Helper()
	if !rewrite {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("%v: this test makes it with -rewrite", err)
		}
		return
	}
	img, err := png.Decode(bytes.NewReader(data))
	check(t, err)
	var out bytes.Buffer
	check(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, reduced(img)))
	check(t, os.MkdirAll(filepath.Dir(file), 0o755))
	check(t, os.WriteFile(file, out.Bytes(), 0o644))
}

// reduced is a picture in 256 colours: of those that are much alike, the most frequent one.
func reduced(img image.Image) image.Image {
	counts := map[color.RGBA]int{}
	size := img.Bounds()
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			counts[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)]++
		}
	}
	alike := map[color.RGBA]color.RGBA{}
	for c, n := range counts {
		key := color.RGBA{c.R >> 5, c.G >> 5, c.B >> 5, 0}
		if have, ok := alike[key]; !ok || n > counts[have] {
			alike[key] = c
		}
	}
	few := color.Palette{}
	kept := map[color.RGBA]bool{}
	for _, c := range alike {
		few, kept[c] = append(few, c), true
	}
	frequent := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int { return counts[b] - counts[a] })
	for _, c := range frequent {
		if len(few) < 256 && !kept[c] {
			few = append(few, c)
		}
	}
	slices.SortFunc(few, func(a, b color.Color) int {
		x, y := a.(color.RGBA), b.(color.RGBA)
		return cmp.Or(cmp.Compare(x.R, y.R), cmp.Compare(x.G, y.G), cmp.Compare(x.B, y.B))
	})
	out := image.NewPaletted(size, few[:min(len(few), 256)])
	draw.Draw(out, size, img, size.Min, draw.Src)
	return out
}
