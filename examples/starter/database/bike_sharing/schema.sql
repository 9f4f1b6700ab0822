-- A bicycle-sharing system: stations, bicycles, riders, the trips they take and the repairs the bicycles need.
CREATE TABLE station (
    station_id INTEGER PRIMARY KEY,
    station_name TEXT NOT NULL,
    quarter TEXT NOT NULL,
    dock_count INTEGER NOT NULL,
    charging_docks INTEGER NOT NULL,
    elevation_m INTEGER NOT NULL,
    installed_on DATE NOT NULL,
    removed_on DATE
);

CREATE TABLE bicycle (
    bicycle_id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    drive TEXT NOT NULL,
    frame_size TEXT NOT NULL,
    purchase_price INTEGER NOT NULL,
    resale_value INTEGER,
    bought_on DATE NOT NULL,
    retired_on DATE,
    base_station_id INTEGER NOT NULL,
    FOREIGN KEY (base_station_id) REFERENCES station (station_id)
);

CREATE TABLE rider (
    rider_id INTEGER PRIMARY KEY,
    full_name TEXT NOT NULL,
    plan TEXT NOT NULL,
    monthly_fee REAL NOT NULL,
    birth_year INTEGER,
    home_quarter TEXT NOT NULL,
    joined_on DATE NOT NULL,
    cancelled_on DATE,
    referred_by INTEGER,
    FOREIGN KEY (referred_by) REFERENCES rider (rider_id)
);

CREATE TABLE trip (
    trip_id INTEGER PRIMARY KEY,
    rider_id INTEGER NOT NULL,
    bicycle_id INTEGER NOT NULL,
    start_station_id INTEGER NOT NULL,
    end_station_id INTEGER,
    trip_date DATE NOT NULL,
    start_hour INTEGER NOT NULL,
    duration_min INTEGER NOT NULL,
    distance_km REAL NOT NULL,
    fare REAL NOT NULL,
    surcharge REAL NOT NULL,
    rating INTEGER,
    FOREIGN KEY (rider_id) REFERENCES rider (rider_id),
    FOREIGN KEY (bicycle_id) REFERENCES bicycle (bicycle_id),
    FOREIGN KEY (start_station_id) REFERENCES station (station_id),
    FOREIGN KEY (end_station_id) REFERENCES station (station_id)
);

CREATE TABLE repair (
    repair_id INTEGER PRIMARY KEY,
    bicycle_id INTEGER NOT NULL,
    part TEXT NOT NULL,
    mechanic TEXT NOT NULL,
    reported_on DATE NOT NULL,
    fixed_on DATE,
    part_cost REAL NOT NULL,
    labor_cost REAL NOT NULL,
    FOREIGN KEY (bicycle_id) REFERENCES bicycle (bicycle_id)
);
