-- A seed bank with a botanical garden: species, collectors, stored accessions, germination tests, beds and plantings.
CREATE TABLE species (
    species_id INTEGER PRIMARY KEY,
    scientific_name TEXT NOT NULL,
    common_name TEXT,
    family TEXT NOT NULL,
    life_form TEXT NOT NULL,
    native_region TEXT NOT NULL,
    threat_level TEXT
);

CREATE TABLE collectors (
    collector_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    institute TEXT,
    home_country TEXT NOT NULL,
    first_trip_year INTEGER NOT NULL,
    last_trip_year INTEGER NOT NULL
);

CREATE TABLE accessions (
    accession_id INTEGER PRIMARY KEY,
    species_id INTEGER NOT NULL,
    collector_id INTEGER,
    found_in TEXT NOT NULL,
    altitude_m INTEGER,
    collected_on DATE NOT NULL,
    stored_on DATE,
    seeds_received INTEGER NOT NULL,
    seeds_left INTEGER NOT NULL,
    FOREIGN KEY (species_id) REFERENCES species (species_id),
    FOREIGN KEY (collector_id) REFERENCES collectors (collector_id)
);

CREATE TABLE germination_tests (
    test_id INTEGER PRIMARY KEY,
    accession_id INTEGER NOT NULL,
    sown_on DATE NOT NULL,
    medium TEXT NOT NULL,
    celsius REAL NOT NULL,
    seeds_sown INTEGER NOT NULL,
    seeds_sprouted INTEGER NOT NULL,
    days_to_first INTEGER,
    FOREIGN KEY (accession_id) REFERENCES accessions (accession_id)
);

CREATE TABLE beds (
    bed_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    zone TEXT NOT NULL,
    soil TEXT NOT NULL,
    area_m2 REAL NOT NULL,
    shade_percent INTEGER
);

CREATE TABLE plantings (
    planting_id INTEGER PRIMARY KEY,
    bed_id INTEGER NOT NULL,
    species_id INTEGER NOT NULL,
    planted_on DATE NOT NULL,
    removed_on DATE,
    specimens_planted INTEGER NOT NULL,
    specimens_alive INTEGER NOT NULL,
    FOREIGN KEY (bed_id) REFERENCES beds (bed_id),
    FOREIGN KEY (species_id) REFERENCES species (species_id)
);
