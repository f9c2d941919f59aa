package zone

import "slices"

// The image of a zone lies in pages, so that a zone that differs from another one in a little shares with it the pages that
// are equal in both (see Apply). What a ref points at lies in one page. A page is as long as pageSize, but for the last one,
// and for one that begins with something longer, behind which as many pages are left out as it takes the place of.

const (
	pageSize  = 64 << 10 // octets
	pageUnits = pageSize / unit
)

// from is the page of a ref from there on; nothing if there is none.
func (z *Zone) from(r ref) []byte {
	if at := uint64(r) * unit; at < uint64(len(z.first)) {
		return z.first[at:]
	}
	return z.far(r)
}

// far is from for what is not in the first page.
func (z *Zone) far(r ref) []byte {
	if i := int(r / pageUnits); i < len(z.pages) {
		if page, at := z.pages[i], int(r%pageUnits)*unit; at < len(page) {
			return page[at:]
		}
	}
	return nil
}

// space finds room in pages that are written once.
type space struct {
	pages [][]byte
	next  uint64 // the unit after the last that is taken
}

// place finds room for so many octets in one page, which are zero.
func (s *space) place(octets int) ref {
	units := uint64(align(octets) / unit)
	if in := s.next % pageUnits; in > 0 && in+units > pageUnits {
		s.next += pageUnits - in
	}
	at := s.next
	s.next += units
	if units > pageUnits {
		s.next += (pageUnits - s.next%pageUnits) % pageUnits
	}
	s.extend(at, units)
	return ref(at)
}

// extend lets the pages reach as far as something that was placed.
func (s *space) extend(at, units uint64) {
	if at+units > maxImage/unit {
		return // which too says
	}
	i := int(at / pageUnits)
	for len(s.pages) <= i {
		s.pages = append(s.pages, nil)
	}
	in := int(at%pageUnits) * unit
	length := in + int(units)*unit
	if page := s.pages[i]; length > cap(page) {
		room := pageSize
		if i == 0 { // it may be the only one, of a small zone
			room = min(2*cap(page), pageSize)
		}
		s.pages[i] = append(make([]byte, 0, max(length, room)), page...)
	}
	s.pages[i] = s.pages[i][:length]
}

// array finds room for so many units, each of which is something of its own, from a multiple of some units on.
func (s *space) array(units, multiple uint64) ref {
	s.next += (multiple - s.next%multiple) % multiple
	at := s.next
	for end := at + units; s.next < end && !s.tooLarge(); {
		part := min(end-s.next, pageUnits-s.next%pageUnits)
		s.extend(s.next, part)
		s.next += part
	}
	return ref(at)
}

// tooLarge reports whether there was more to place than refs can reach.
func (s *space) tooLarge() bool { return s.next > maxImage/unit }

// from is where a ref points, to be written to.
func (s *space) from(r ref) []byte { return s.pages[r/pageUnits][r%pageUnits*unit:] }

// trim gives back the room that the last page does not take.
func (s *space) trim() {
	if last := len(s.pages) - 1; last >= 0 {
		s.pages[last] = slices.Clip(slices.Clone(s.pages[last]))
	}
}
