-- A container harbour: shipping lines, their ships, berths, port calls and the containers moved at each call.

CREATE TABLE shipping_lines (
    line_id INTEGER PRIMARY KEY,
    line_name TEXT NOT NULL,
    head_office TEXT NOT NULL,
    country TEXT NOT NULL,
    founded_year INTEGER,
    alliance TEXT
);

CREATE TABLE ships (
    ship_id INTEGER PRIMARY KEY,
    ship_name TEXT NOT NULL,
    line_id INTEGER NOT NULL,
    flag_country TEXT NOT NULL,
    built_year INTEGER NOT NULL,
    length_m REAL NOT NULL,
    beam_m REAL NOT NULL,
    draught_m REAL NOT NULL,
    capacity_teu INTEGER NOT NULL,
    reefer_plugs INTEGER,
    FOREIGN KEY (line_id) REFERENCES shipping_lines (line_id)
);

CREATE TABLE berths (
    berth_id INTEGER PRIMARY KEY,
    berth_code TEXT NOT NULL,
    terminal TEXT NOT NULL,
    quay_length_m INTEGER NOT NULL,
    water_depth_m REAL NOT NULL,
    crane_count INTEGER NOT NULL,
    opened_on TEXT NOT NULL,
    closed_on TEXT
);

CREATE TABLE port_calls (
    call_id INTEGER PRIMARY KEY,
    ship_id INTEGER NOT NULL,
    berth_id INTEGER,
    arrived_on TEXT NOT NULL,
    berthed_on TEXT,
    departed_on TEXT,
    previous_port TEXT NOT NULL,
    next_port TEXT,
    pilot_name TEXT,
    harbour_dues REAL NOT NULL,
    pilotage_fee REAL,
    FOREIGN KEY (ship_id) REFERENCES ships (ship_id),
    FOREIGN KEY (berth_id) REFERENCES berths (berth_id)
);

CREATE TABLE containers (
    container_id INTEGER PRIMARY KEY,
    container_number TEXT NOT NULL,
    owner_line_id INTEGER,
    size_feet INTEGER NOT NULL,
    container_type TEXT NOT NULL,
    tare_weight_kg INTEGER NOT NULL,
    max_gross_kg INTEGER NOT NULL,
    last_inspected_on TEXT,
    FOREIGN KEY (owner_line_id) REFERENCES shipping_lines (line_id)
);

CREATE TABLE container_moves (
    move_id INTEGER PRIMARY KEY,
    call_id INTEGER NOT NULL,
    container_id INTEGER NOT NULL,
    direction TEXT NOT NULL,
    moved_on TEXT NOT NULL,
    gross_weight_kg INTEGER NOT NULL,
    hazard_class TEXT,
    damage_note TEXT,
    FOREIGN KEY (call_id) REFERENCES port_calls (call_id),
    FOREIGN KEY (container_id) REFERENCES containers (container_id)
);
