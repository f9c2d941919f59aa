package zone

// OwnedBy returns the RRsets of an owner in wire format and lower case, an NSEC3 record's too, with their RRSIG records; none if there
// is no such owner.
func (z *Zone) OwnedBy(owner []byte) []RRset {
	return z.ownedBy(&owned{owner: owner, key: appendKey(nil, owner)})
}
