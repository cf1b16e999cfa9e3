-- Vehicles are found as a person expects: whatever the case, the accents and the way in which letters are put together.
CREATE EXTENSION IF NOT EXISTS pg_trgm;

-- A text as it is searched in and searched for. `web/search.js` does the same for what a screen holds; `tests/search_keys.json`
-- holds both to it.
CREATE FUNCTION search_key (given text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT replace(replace(replace(replace(
        -- A final sigma is a sigma; a dotless i is an i; a stroke through a letter is like an accent, and no decomposition has it.
        translate(
            lower(
                regexp_replace(
                    normalize(given, NFKD),
                    -- Accents and points, also of Hebrew and Arabic; what has no shape: soft hyphens, joiners, directions, variants.
                    '[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u1ab0-\u1aff\u1dc0-\u1dff'
                    || '\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]',
                    '',
                    'g'
                ) COLLATE "und-x-icu"
            ),
            'ςıłøđħŧð',
            'σilodhtd'
        ), 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th')
$$;

-- LIKE this finds the word anywhere in a key.
CREATE FUNCTION search_pattern (word text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT '%' || regexp_replace(search_key(word), '([\\%_])', '\\\1', 'g') || '%'
$$;

-- Text is kept in NFC: what came before is made so.
UPDATE fleets SET name = normalize(name, NFC) WHERE name IS NOT NFC NORMALIZED;
UPDATE vehicles
SET name = normalize(name, NFC), kind = normalize(kind, NFC), plate = normalize(plate, NFC)
WHERE name || kind || plate IS NOT NFC NORMALIZED;
UPDATE geofences
SET properties = jsonb_set(properties, '{name}', to_jsonb(normalize(properties ->> 'name', NFC)))
WHERE jsonb_typeof(properties -> 'name') = 'string' AND properties ->> 'name' IS NOT NFC NORMALIZED;
-- Name by name: in the text of a JSON a line feed is a backslash and an n, and an accent after it would join that.
CREATE FUNCTION pg_temp.in_nfc (place jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN jsonb_typeof(place -> 'name') = 'string'
        THEN jsonb_set(place, '{name}', to_jsonb(normalize(place ->> 'name', NFC))) ELSE place END
$$;
UPDATE trips
SET pickup = pg_temp.in_nfc(pickup), dropoff = pg_temp.in_nfc(dropoff),
    stops = coalesce(
        (
            SELECT jsonb_agg(pg_temp.in_nfc(s.place) ORDER BY s.number)
            FROM jsonb_array_elements(stops) WITH ORDINALITY s (place, number)
        ),
        '[]'
    )
WHERE pickup::text || dropoff::text || stops::text IS NOT NFC NORMALIZED;
DROP FUNCTION pg_temp.in_nfc;

-- A plate is found without its spaces and hyphens too.
ALTER TABLE vehicles ADD COLUMN search_key text NOT NULL GENERATED ALWAYS AS (
    search_key(name || ' ' || plate || ' ' || regexp_replace(plate, '[\s-]', '', 'g') || ' ' || vehicle_id)
) STORED;

-- Three letters and more are found by their trigrams.
CREATE INDEX vehicles_by_search_key ON vehicles USING gin (search_key gin_trgm_ops);
