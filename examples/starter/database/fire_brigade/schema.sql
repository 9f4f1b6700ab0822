-- A municipal fire brigade: stations, firefighters and their courses, engines, incidents and who was sent to them.
CREATE TABLE stations (
    station_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    district TEXT NOT NULL,
    built_year INTEGER NOT NULL,
    renovated_year INTEGER,
    engine_bays INTEGER NOT NULL,
    crew_beds INTEGER NOT NULL
);

CREATE TABLE firefighters (
    firefighter_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    grade TEXT NOT NULL,
    station_id INTEGER,
    joined_on DATE NOT NULL,
    retired_on DATE,
    base_pay REAL NOT NULL,
    hazard_pay REAL,
    FOREIGN KEY (station_id) REFERENCES stations (station_id)
);

CREATE TABLE courses (
    course_id INTEGER PRIMARY KEY,
    firefighter_id INTEGER NOT NULL,
    subject TEXT NOT NULL,
    taken_on DATE NOT NULL,
    valid_until DATE,
    score INTEGER NOT NULL,
    FOREIGN KEY (firefighter_id) REFERENCES firefighters (firefighter_id)
);

CREATE TABLE engines (
    engine_id INTEGER PRIMARY KEY,
    call_sign TEXT NOT NULL,
    kind TEXT NOT NULL,
    station_id INTEGER NOT NULL,
    tank_litres INTEGER,
    bought_on DATE NOT NULL,
    scrapped_on DATE,
    mileage_km INTEGER NOT NULL,
    FOREIGN KEY (station_id) REFERENCES stations (station_id)
);

CREATE TABLE incidents (
    incident_id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    street TEXT NOT NULL,
    district TEXT NOT NULL,
    reported_on DATE NOT NULL,
    severity INTEGER NOT NULL,
    injured INTEGER NOT NULL,
    first_damage_estimate REAL,
    final_damage REAL,
    cause TEXT
);

CREATE TABLE dispatches (
    dispatch_id INTEGER PRIMARY KEY,
    incident_id INTEGER NOT NULL,
    engine_id INTEGER NOT NULL,
    commander_id INTEGER,
    turnout_seconds INTEGER NOT NULL,
    travel_seconds INTEGER NOT NULL,
    minutes_on_scene INTEGER,
    FOREIGN KEY (incident_id) REFERENCES incidents (incident_id),
    FOREIGN KEY (engine_id) REFERENCES engines (engine_id),
    FOREIGN KEY (commander_id) REFERENCES firefighters (firefighter_id)
);
